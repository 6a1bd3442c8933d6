"""``/mint/v1/evaluations/run``: score a revision on a task's held-out prompts.

The rollout service samples and scores; the registry gets the mean reward as an evaluation, whose suite is the
task and whose metric is ``reward``, signed by the key that asked.
"""

import difflib
from dataclasses import asdict, dataclass
from typing import ClassVar

from fastapi import APIRouter

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import derive_id, new_id
from mint_common.lora import MAX_SEED
from mint_common.names import BEST, number_or_digest
from services.gateway.core.bounds import check_between
from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject
from services.gateway.http.edge.context import Gateway, GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import KeyedDep, RecordedRoute, creates
from services.gateway.http.mint.jobs import task_defaults

router = APIRouter(prefix="/mint/v1/evaluations/run", tags=["evaluations"], route_class=RecordedRoute)

MAX_ITEMS = 4096
MAX_TEMPERATURE = 2.0
LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRunBody:
    """What to score: ``revision`` is a number, a digest, an alias, ``latest`` or ``best``.

    The same task, ``n`` and ``seed`` are the same prompts for every revision. Temperature 0 is greedy.
    ``max_new_tokens`` is the task's own unless it is given.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"policy": "counter", "revision": 2, "task": "progression", "n": 64}
    )

    policy: str
    task: str
    revision: int | str = LATEST
    n: int = 64
    seed: int = 0
    temperature: float = 0.0
    max_new_tokens: int | None = None


@router.post("", status_code=202, dependencies=[creates("run_id")])
async def run_evaluation(
    body: EvaluationRunBody,
    caller: TrainCaller,
    gateway: GatewayDep,
    keyed: KeyedDep,
) -> JsonObject:
    """Score a revision; the answer is the run, which `GET` follows to its ``value`` and ``stderr``."""
    policy = await gateway.registry.get_policy(caller.tenant_id, body.policy)
    revision = await _revision(gateway, policy, str(body.revision))
    task = await gateway.rollout.task(body.task)
    base = await gateway.registry.get_base(policy.base)
    asked = asdict(body) | {"max_new_tokens": _checked(body, base, task_defaults(task))}
    run = {
        **asked,
        "run_id": derive_id("evr", new_id("req") if keyed is None else keyed.request_id),
        "base": policy.base,
        "policy_id": policy.policy_id,
        "policy": policy.name,
        "revision": asdict(revision),
        "caller": caller,
    }
    return await gateway.rollout.evaluate(caller.tenant_id, run)


@router.get("")
async def list_runs(caller: ReadCaller, gateway: GatewayDep, limit: LimitQuery = 100) -> list[JsonObject]:
    """List the tenant's newest runs, newest first."""
    return await gateway.rollout.evaluations(caller.tenant_id, limit=limit)


@router.get("/{run}")
async def get_run(run: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return a run: ``scored`` of ``n`` prompts, and at its end ``value`` and ``stderr``."""
    return await gateway.rollout.evaluation(caller.tenant_id, run)


@router.post("/{run}/cancel")
async def cancel_run(run: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Stop a run. One that has ended stays as it is; a score that is recorded at this moment stays too."""
    return await gateway.rollout.cancel_evaluation(caller.tenant_id, run)


def _checked(body: EvaluationRunBody, base: BaseFacts, defaults: dict[str, float]) -> int:
    """Return how many tokens an answer may have. Raises InvalidField for a number out of bounds."""
    check_between("n", body.n, 1, MAX_ITEMS)
    check_between("seed", body.seed, 0, MAX_SEED)
    check_between("temperature", body.temperature, 0, MAX_TEMPERATURE)
    wanted = body.max_new_tokens
    if wanted is None:
        wanted = int(defaults.get("max_new_tokens", 16))
    check_between("max_new_tokens", wanted, 1, base.max_context - 1)
    return wanted


async def _revision(gateway: Gateway, policy: PolicyRecord, name: str) -> RevisionRef:
    """Return the revision that a name means. Raises NotFound with near names, InvalidField for a bad one."""
    key = number_or_digest(name)
    if key is not None:
        found = await gateway.registry.get_revision(policy.tenant_id, policy.policy_id, key)
        if found.state == "quarantined":
            raise InvalidField(field="revision", problem=f"{name} is quarantined: restore it first")
        return found.ref
    if name == LATEST and policy.latest is not None:
        return policy.latest
    aliases = await gateway.registry.list_aliases(policy.tenant_id, policy.policy_id)
    for alias in aliases:
        if alias.alias == name:
            return alias.revision
    if name == BEST:
        return (await gateway.registry.get_revision(policy.tenant_id, policy.policy_id, BEST)).ref
    names = [LATEST] * (policy.latest is not None) + [alias.alias for alias in aliases]
    near = ", ".join(difflib.get_close_matches(name, names) or names[:5])
    raise NotFound(kind="revision", name=name[:100], near=near)
