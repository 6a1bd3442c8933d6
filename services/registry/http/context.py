"""Dependencies of routes: the registry's parts, the objects that a path names, and the caller."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Header, Path, Request

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.authority import CALLER_HEADER, DECIDED_HEADER, Caller, read_caller
from mint_common.catalog import PolicyRecord, RevisionRecord
from mint_common.errors import NotFound
from mint_common.ids import TenantId
from mint_common.names import BEST, base_key, policy_key, revision_key
from mint_common.runtime.clock import Clock
from services.registry.adapters.accounts_postgres import PostgresAccounts
from services.registry.adapters.aliases_postgres import PostgresAliases
from services.registry.adapters.catalog_postgres import PostgresCatalog
from services.registry.adapters.evaluations_postgres import PostgresEvaluations
from services.registry.adapters.faulty_postgres import PostgresFaulty
from services.registry.adapters.members_postgres import PostgresMembers
from services.registry.adapters.owners_postgres import PostgresOwners
from services.registry.adapters.rules_postgres import PostgresRules
from services.registry.adapters.timeline_postgres import PostgresTimeline
from services.registry.handlers.collector import Collector
from services.registry.handlers.diffs import DiffHandler
from services.registry.handlers.uploads import UploadHandler

MAX_NAMED = 20
"""Number of bases that the error about an unknown base lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """The stores and handlers that routes call; made by app.py.

    ``keys`` and ``names`` look up what every request of a gateway needs, on connections of their own.
    """

    keys: PostgresAccounts
    names: PostgresCatalog
    accounts: PostgresAccounts
    catalog: PostgresCatalog
    aliases: PostgresAliases
    evaluations: PostgresEvaluations
    rules: PostgresRules
    timeline: PostgresTimeline
    faulty: PostgresFaulty
    owners: PostgresOwners
    diffs: DiffHandler
    uploads: UploadHandler
    collector: Collector
    members: PostgresMembers
    clock: Clock


async def _registry(request: Request) -> Registry:
    return cast(Registry, request.app.state.parts)


RegistryDep = Annotated[Registry, Depends(_registry)]
Tenant = Annotated[TenantId, Path(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


async def find_base(registry: Registry, name: str) -> BaseFacts:
    """Return a base. Raises NotFound, which lists the known bases."""
    try:
        return await registry.catalog.base(base_key(name))
    except NotFound as error:
        known = await registry.catalog.base_names()
        raise NotFound(kind="base", name=name[:100], near=", ".join(known[:MAX_NAMED])) from error


async def _policy(tenant_id: Tenant, policy: str, registry: RegistryDep) -> PolicyRecord:
    return await registry.catalog.policy(tenant_id, policy_key(policy))


PolicyDep = Annotated[PolicyRecord, Depends(_policy)]
"""The tenant's policy that a path names, by name or id."""


async def _revision(policy: PolicyDep, revision: str, registry: RegistryDep) -> RevisionRecord:
    if revision == BEST:
        return await registry.catalog.best(policy.policy_id)
    return await registry.catalog.revision(policy.policy_id, revision_key(revision))


RevisionDep = Annotated[RevisionRecord, Depends(_revision)]
"""The policy's revision that a path names, by number, digest or `BEST`."""


async def _caller(said: Annotated[str, Header(alias=CALLER_HEADER)]) -> Caller:
    return read_caller(said)


CallerDep = Annotated[Caller, Depends(_caller)]
"""The caller, as the gateway has verified it."""

DecidedHeader = Annotated[float | None, Header(alias=DECIDED_HEADER)]
"""Time at which the caller decided on the request, if that was before it arrived."""
