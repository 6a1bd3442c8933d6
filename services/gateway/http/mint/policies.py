"""``/mint/v1/policies``, and the ``/mint/v1/bases`` that they are trained over."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import PolicyRecord
from mint_common.catalog_requests import PolicyPatch, PolicyQuery, PolicyRequest
from mint_common.errors import InUse, PreconditionFailed
from mint_common.ids import BaseName
from mint_common.runtime.edge_routes import include_routes
from services.gateway.core.mint.bases import BaseFeatures, features_of
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.recording import RecordedRoute, check_expected, creates
from services.gateway.http.mint.context import CatalogDep, JobsDep
from services.gateway.http.mint.forwarding import BasesCatalog, PolicyPath, ReadCatalog, TrainCatalog
from services.gateway.http.mint.removal import holders_of
from services.gateway.http.tinker.context import TinkerDep

NEVER = -1
"""Number of changes that no policy has reached."""

_bases = APIRouter(prefix="/mint/v1/bases", tags=["bases"], route_class=RecordedRoute)
_policies = APIRouter(prefix="/mint/v1/policies", tags=["policies"], route_class=RecordedRoute)


@_bases.get("", response_model=list[BaseFacts])
async def list_bases(catalog: BasesCatalog) -> Response:
    """List the bases that policies can be trained over."""
    return await catalog.forward()


@_bases.get("/{base}", response_model=BaseFacts)
async def get_base(_base: Annotated[str, Path(alias="base")], catalog: BasesCatalog) -> Response:
    """Return one base."""
    return await catalog.forward()


@_bases.get("/{base}/features")
async def get_features(
    base: Annotated[str, Path(alias="base")], _caller: ReadCaller, parts: CatalogDep
) -> BaseFeatures:
    """Return the features common to a base's engines: context, chats, tools, reasoning, log-probabilities.

    404 for a base that is not registered; 503 while none of its engines answers.
    """
    await parts.registry.get_base(BaseName(base))
    return features_of(BaseName(base), await parts.engines.engines_of(BaseName(base)))


@_policies.post("", status_code=201, response_model=PolicyRecord, dependencies=[creates("name")])
async def create_policy(_body: PolicyRequest, catalog: TrainCatalog) -> Response:
    """Create a policy over a base; it equals the base until its first revision."""
    return await catalog.forward()


@_policies.get("", response_model=list[PolicyRecord])
async def list_policies(_query: Annotated[PolicyQuery, Query()], catalog: ReadCatalog) -> Response:
    """List the tenant's policies by name; ``after`` is the last name of the previous page.

    ``prefix`` (of the name), ``base``, ``labels``, ``has_revision`` and the times, in seconds since the
    epoch, are filters that must all match. With a time the list is in order of creation.
    """
    return await catalog.forward()


@_policies.get("/{policy}", response_model=PolicyRecord)
async def get_policy(_policy: PolicyPath, catalog: ReadCatalog) -> Response:
    """Return one policy, by name or id."""
    return await catalog.forward()


@_policies.patch("/{policy}", response_model=PolicyRecord)
async def change_policy(
    policy: PolicyPath,
    _body: PolicyPatch,
    parts: CatalogDep,
    catalog: TrainCatalog,
    if_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Change a policy's description, labels or retention. 412 when If-Match is not its current ETag."""
    if if_match is None:
        return await catalog.forward(query=())
    found = await parts.registry.get_policy(catalog.caller.tenant_id, policy)
    expected = found.changed
    try:
        check_expected(if_match, found, what=f"policy {found.name!r}")
    except PreconditionFailed:
        if catalog.cause is None:
            raise
        expected = NEVER  # the registry knows whether it repeats the change of the policy
    return await catalog.forward(query=[("expected", str(expected))])


@_policies.delete("/{policy}", status_code=204)
async def remove_policy(
    policy: PolicyPath, parts: CatalogDep, jobs: JobsDep, tinker: TinkerDep, catalog: TrainCatalog
) -> Response:
    """Remove a policy with its revisions, and free its name.

    422 `in_use` names what holds it: aliases, rules, unfinished jobs and evaluation runs, pinned revisions,
    an open Tinker session, saved Tinker checkpoints. Prompts, records and answers of its jobs and runs are
    erased; bytes of its revisions go with the next collection.
    """
    found = await parts.registry.get_policy(catalog.caller.tenant_id, policy)
    if holders := await holders_of(found, catalog.caller, parts, jobs, tinker):
        held_by = f"remove first what holds it: {', '.join(holders)}"
        raise InUse(what=f"Policy {found.name!r}", held_by=held_by)
    answer = await catalog.forward()
    parts.resolver.withdraw(catalog.caller.tenant_id, policy)
    await tinker.runs.remove_run(found.policy_id)
    return answer


router = APIRouter()
include_routes(router, _bases, _policies)
