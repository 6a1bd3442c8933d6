"""Revisions of a policy: uploaded, listed, compared, retired; and their scores."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field

from mint_common.answer_ids import PREFIX_PATTERN
from mint_common.catalog import (
    AliasPeriod,
    EvaluationRecord,
    FaultyRevision,
    Lineage,
    OwnedRevision,
    PolicyRecord,
    RevisionDiff,
    RevisionFilter,
    RevisionRecord,
    UploadedRevision,
)
from mint_common.catalog_requests import (
    AliasPeriodQuery,
    Body,
    DiffQuery,
    DigestText,
    EvaluationBody,
    FaultyQuery,
    LineageQuery,
    PageQuery,
    RevisionQuery,
    UploadQuery,
)
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import TenantId
from mint_common.names import check_policy_name, policy_key, revision_key
from mint_common.runtime.edge_repeats import CauseHeader, RepeatableRoute
from mint_common.runtime.edge_routes import StreamDep
from services.registry.core.evaluations import evaluation_id
from services.registry.core.lineage import MAX_NODES, Reach, lineage_of
from services.registry.core.uploads import NewPolicy
from services.registry.http.context import (
    CallerDep,
    PolicyDep,
    Registry,
    RegistryDep,
    RevisionDep,
    Tenant,
    find_base,
)

router = APIRouter(prefix="/internal/tenants/{tenant_id}", route_class=RepeatableRoute)


_FOUND = 100
"""Maximum revisions found by a prefix of their digest."""


class DigestsBody(Body):
    """Digests, of any tenant."""

    digests: Annotated[list[DigestText], Field(max_length=10_000)]


@router.post("/revisions/find")
async def find_owned(tenant_id: Tenant, body: DigestsBody, registry: RegistryDep) -> Sequence[OwnedRevision]:
    """Return the tenant's revisions among these digests."""
    return await registry.owners.of_digests(tenant_id, body.digests)


@router.get("/revisions")
async def find_by_prefix(
    tenant_id: Tenant, prefix: Annotated[str, Query(pattern=f"^{PREFIX_PATTERN}$")], registry: RegistryDep
) -> Sequence[OwnedRevision]:
    """Return the tenant's first 100 revisions whose digest has this prefix."""
    return await registry.owners.of_prefix(tenant_id, prefix, limit=_FOUND)


@router.get("/revisions/faulty")
async def list_faulty(
    tenant_id: Tenant, page: Annotated[FaultyQuery, Query()], registry: RegistryDep
) -> Sequence[FaultyRevision]:
    """Return the tenant's quarantined and lost revisions, but for retired ones."""
    return await registry.faulty.page(tenant_id, limit=page.limit, after=page.after)


@router.get("/policies/{policy}/revisions")
async def list_revisions(
    policy: PolicyDep, query: Annotated[RevisionQuery, Query()], registry: RegistryDep
) -> Sequence[RevisionRecord]:
    """Return revisions by number."""
    wanted = RevisionFilter(
        state=query.state, created_after=query.created_after, created_before=query.created_before
    )
    return await registry.catalog.revisions(
        policy.policy_id, wanted, limit=query.limit, after=query.after or 0
    )


@router.post("/policies/{policy}/revisions", status_code=201)
async def upload_revision(
    tenant_id: Tenant,
    policy: str,
    body: StreamDep,
    query: Annotated[UploadQuery, Query()],
    registry: RegistryDep,
) -> UploadedRevision:
    """Publish the adapter in a tar as a revision."""
    parent = None if query.parent is None else revision_key(query.parent)
    target = await _upload_target(registry, tenant_id, policy, base=query.base)
    return await registry.uploads.upload(target, body, step=query.step, parent=parent)


async def _upload_target(
    registry: Registry, tenant_id: TenantId, name: str, *, base: str | None
) -> PolicyRecord | NewPolicy:
    """Return the policy of that name, or one to make over the base."""
    facts = None if base is None else await find_base(registry, base)
    try:
        policy = await registry.catalog.policy(tenant_id, policy_key(name))
    except NotFound:
        if facts is None:
            raise
        check_policy_name(name)
        return NewPolicy(tenant_id=tenant_id, name=name, base=facts.name)
    if facts is not None and facts.name != policy.base:
        problem = f"policy {policy.name!r} is over {policy.base}, not over {facts.name}: take another name"
        raise InvalidField(field="base", problem=problem)
    return policy


@router.get("/policies/{policy}/revisions/{revision}")
async def get_revision(revision: RevisionDep) -> RevisionRecord:
    """Return a revision."""
    return revision


@router.post("/policies/{policy}/revisions/{revision}/retire")
async def retire_revision(
    policy: PolicyDep, revision: RevisionDep, registry: RegistryDep, cause: CauseHeader = None
) -> RevisionRecord:
    """Retire a revision: no name resolves to it."""
    return await registry.catalog.set_state(policy, revision.number, "retired", cause=cause)


@router.post("/policies/{policy}/revisions/{revision}/restore")
async def restore_revision(
    policy: PolicyDep, revision: RevisionDep, registry: RegistryDep, cause: CauseHeader = None
) -> RevisionRecord:
    """Restore a retired or quarantined revision."""
    return await registry.catalog.set_state(policy, revision.number, "published", cause=cause)


@router.get("/policies/{policy}/revisions/{revision}/aliases")
async def list_alias_periods(
    policy: PolicyDep,
    revision: RevisionDep,
    page: Annotated[AliasPeriodQuery, Query()],
    registry: RegistryDep,
) -> Sequence[AliasPeriod]:
    """Return the newest periods in which aliases pointed at a revision."""
    return await registry.aliases.periods(policy.policy_id, revision.number, limit=page.limit)


@router.get("/policies/{policy}/revisions/{revision}/lineage")
async def get_lineage(
    policy: PolicyDep,
    revision: RevisionDep,
    query: Annotated[LineageQuery, Query()],
    registry: RegistryDep,
) -> Lineage:
    """Return the graph around a revision."""
    reach = Reach(ancestors=query.ancestors, descendants=query.descendants)
    related = await registry.catalog.related(policy.policy_id, revision.number, reach.beyond, limit=MAX_NODES)
    aliases: dict[int, list[str]] = defaultdict(list)
    after: str | None = None
    while page := await registry.aliases.aliases(policy.policy_id, after=after):
        for alias in page:
            aliases[alias.revision.number].append(alias.alias)
        after = page[-1].alias
    return lineage_of(revision, related, reach, aliases)


@router.get("/policies/{policy}/revisions/{revision}/diff")
async def get_diff(
    policy: PolicyDep, revision: RevisionDep, query: Annotated[DiffQuery, Query()], registry: RegistryDep
) -> RevisionDiff:
    """Compare a revision with another one of its policy, or with its parent."""
    other = query.against or revision.parent
    if other is None:
        problem = f"revision {revision.number} has no parent to be compared with: name another revision"
        raise InvalidField(field="against", problem=problem)
    before = await registry.catalog.revision(policy.policy_id, revision_key(other))
    return await registry.diffs.diff(policy, before, revision)


@router.post("/policies/{policy}/evaluations", status_code=201)
async def record_evaluation(
    policy: PolicyDep,
    body: EvaluationBody,
    caller: CallerDep,
    registry: RegistryDep,
    cause: CauseHeader = None,
) -> EvaluationRecord:
    """Record a score of a revision."""
    revision = await registry.catalog.revision(policy.policy_id, revision_key(str(body.revision)))
    score = {**body.model_dump(exclude={"revision"}), "number": revision.number, "actor": caller.actor}
    evaluation = EvaluationRecord(
        evaluation_id=evaluation_id(policy.policy_id, **score),
        digest=revision.digest,
        created_at=registry.clock.now(),
        **score,
    )
    return await registry.evaluations.add(policy, evaluation, cause=cause)


@router.get("/policies/{policy}/evaluations")
async def list_evaluations(
    policy: PolicyDep, page: Annotated[PageQuery, Query()], registry: RegistryDep
) -> Sequence[EvaluationRecord]:
    """Return the scores of a policy's revisions, oldest first."""
    return await registry.evaluations.list(policy.policy_id, limit=page.limit, after=page.after)
