"""``/mint/v1/policies/{policy}/evaluations``: scores of revisions, from any evaluator."""

from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter

from mint_common.catalog import EvaluationRecord
from mint_common.errors import InvalidField
from mint_common.ids import Digest, EvaluationId
from services.gateway.core.bounds import check_between
from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject
from services.gateway.http.edge.context import GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import RecordedRoute

router = APIRouter(
    prefix="/mint/v1/policies/{policy}/evaluations", tags=["evaluations"], route_class=RecordedRoute
)

MAX_ITEMS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationBody:
    """``value`` of ``metric`` in ``suite`` over ``n`` items, of one revision (number or digest).

    ``stderr`` is the standard error of ``value``, if the evaluator knows it.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"revision": 2, "suite": "held-out", "metric": "accuracy", "value": 0.75, "n": 64, "stderr": 0.05}
    )

    revision: int | str
    suite: str
    metric: str
    value: float
    n: int
    stderr: float | None = None


@router.post("", status_code=201)
async def record_evaluation(
    policy: str, body: EvaluationBody, caller: TrainCaller, gateway: GatewayDep
) -> EvaluationRecord:
    """Record a score. Repeating what the same key said last of the revision, suite and metric is that one."""
    for field in ("suite", "metric"):
        if not 0 < len(getattr(body, field)) <= 200:
            raise InvalidField(field=field, problem="must be 1 to 200 characters")
    check_between("value", body.value, -1e300, 1e300)
    check_between("n", body.n, 1, MAX_ITEMS)
    if body.stderr is not None:
        check_between("stderr", body.stderr, 0, 1e300)
    return await gateway.registry.record_evaluation(
        caller.tenant_id,
        policy,
        revision=body.revision if isinstance(body.revision, int) else Digest(body.revision),
        suite=body.suite,
        metric=body.metric,
        value=body.value,
        n=body.n,
        stderr=body.stderr,
        actor=caller.actor,
    )


@router.get("")
async def list_evaluations(
    policy: str,
    caller: ReadCaller,
    gateway: GatewayDep,
    limit: LimitQuery = 100,
    after: EvaluationId | None = None,
) -> list[EvaluationRecord]:
    """List the scores of a policy's revisions, oldest first; ``after`` is the last id of the page before."""
    return await gateway.registry.list_evaluations(caller.tenant_id, policy, limit=limit, after=after)
