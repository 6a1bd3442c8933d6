"""Revisions of a policy, and their evaluations."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import Field, StrictInt, StringConstraints

from mint_common.catalog import (
    EvaluationRecord,
    OwnedRevision,
    RevisionFilter,
    RevisionRecord,
    RevisionState,
    SettableState,
)
from mint_common.ids import Digest
from services.registry.core.evaluations import evaluation_id
from services.registry.core.names import policy_key, revision_key
from services.registry.http.context import (
    Body,
    Label,
    Limit,
    Moment,
    NumberCursor,
    Registry,
    Tenant,
    TextCursor,
)

_POLICY = "/internal/tenants/{tenant_id}/policies/{policy}"


class EvaluationBody(Body):
    """A score of a revision, given by number or digest."""

    revision: StrictInt | str
    suite: Label
    metric: Label
    value: float
    n: Annotated[int, Field(ge=1, le=2**31 - 1)]
    stderr: Annotated[float | None, Field(ge=0)] = None
    actor: Label


DigestText = Annotated[Digest, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class StateBody(Body):
    """What a revision shall be."""

    state: SettableState


class DigestsBody(Body):
    """Digests, of whomever."""

    digests: Annotated[list[DigestText], Field(max_length=10_000)]


def _wanted(
    state: RevisionState | None = None, created_after: Moment = None, created_before: Moment = None
) -> RevisionFilter:
    return RevisionFilter(state=state, created_after=created_after, created_before=created_before)


def add_revision_routes(http: FastAPI, registry: Registry) -> None:
    """Add revisions and evaluations."""

    @http.post("/internal/tenants/{tenant_id}/revisions/find")
    async def find_owned(tenant_id: Tenant, body: DigestsBody) -> Sequence[OwnedRevision]:
        return await registry.catalog.owned(tenant_id, body.digests)

    @http.get(_POLICY + "/revisions")
    async def list_revisions(
        tenant_id: Tenant,
        policy: str,
        wanted: Annotated[RevisionFilter, Depends(_wanted)],
        limit: Limit = 100,
        after: NumberCursor = 0,
    ) -> Sequence[RevisionRecord]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.catalog.revisions(found.policy_id, wanted, limit=limit, after=after)

    @http.get(_POLICY + "/revisions/{revision}")
    async def get_revision(tenant_id: Tenant, policy: str, revision: str) -> RevisionRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.catalog.revision(found.policy_id, revision_key(revision))

    @http.post(_POLICY + "/revisions/{revision}/state")
    async def set_state(tenant_id: Tenant, policy: str, revision: str, body: StateBody) -> RevisionRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        known = await registry.catalog.revision(found.policy_id, revision_key(revision))
        return await registry.catalog.set_state(found, known.number, body.state)

    @http.post(_POLICY + "/evaluations", status_code=201)
    async def record_evaluation(tenant_id: Tenant, policy: str, body: EvaluationBody) -> EvaluationRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        revision = await registry.catalog.revision(found.policy_id, revision_key(str(body.revision)))
        said = {"suite": body.suite, "metric": body.metric, "actor": body.actor}
        evaluation = EvaluationRecord(
            evaluation_id=evaluation_id(
                found.policy_id,
                number=revision.number,
                value=body.value,
                n=body.n,
                stderr=body.stderr,
                **said,
            ),
            digest=revision.digest,
            number=revision.number,
            value=body.value,
            n=body.n,
            stderr=body.stderr,
            created_at=registry.clock.now(),
            **said,
        )
        return await registry.evaluations.add(found, evaluation)

    @http.get(_POLICY + "/evaluations")
    async def list_evaluations(
        tenant_id: Tenant, policy: str, limit: Limit = 100, after: TextCursor = None
    ) -> Sequence[EvaluationRecord]:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        return await registry.evaluations.list(found.policy_id, limit=limit, after=after)
