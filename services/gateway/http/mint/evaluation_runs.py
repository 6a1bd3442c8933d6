"""``/mint/v1/evaluations``: score revisions on a task's held-out prompts or on a file's rows; compare two.

The rollout service samples and scores; the registry gets the mean as an evaluation of the suite that is the
task or the file, signed by the key that asked. A bare base's score stays in its run.
"""

import difflib
from dataclasses import dataclass
from typing import Annotated, ClassVar

from fastapi import APIRouter, Query

from mint_common.authority import Caller
from mint_common.catalog import PolicyRecord, Resolution
from mint_common.catalog_requests import Label
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField, NotFound
from mint_common.ids import BaseName, derive_id
from mint_common.json_types import JsonObject
from mint_common.names import BEST, number_or_digest
from services.gateway.core.examples import body_config
from services.gateway.core.files.records import IdPrefix, check_id
from services.gateway.core.mint.evaluations import Questions, check_questions, plan_file, plan_task
from services.gateway.http.edge.context import Gateway, GatewayDep, LimitQuery, ReadCaller, TrainCaller
from services.gateway.http.edge.recording import CauseDep, RecordedRoute, creates
from services.gateway.http.fine_tuning.graders import checked_grader
from services.gateway.http.mint.jobs import task_defaults

router = APIRouter(prefix="/mint/v1/evaluations", tags=["evaluations"], route_class=RecordedRoute)

LATEST = "latest"
RowQuery = Annotated[int, Query(ge=0, lt=1 << 31)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRunBody(Questions):
    """What to score: a ``policy`` at a ``revision``, or a ``model``: a base, ``policy``, ``policy@revision``.

    ``revision`` is a number, a digest, an alias, ``latest`` or ``best``.
    """

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"policy": "counter", "revision": 2, "task": "progression", "n": 64}
    )

    policy: str | None = None
    revision: int | str = LATEST
    model: Label | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareBody(Questions):
    """Two models that are asked the same: bases, ``policy`` or ``policy@revision``."""

    __pydantic_config__: ClassVar[JsonObject] = body_config(
        {"model": "counter@3", "baseline": "counter@prod", "task": "progression", "n": 64}
    )

    model: Label
    baseline: Label


@router.post("/run", status_code=202, dependencies=[creates("run_id")])
async def run_evaluation(
    body: EvaluationRunBody, caller: TrainCaller, gateway: GatewayDep, cause: CauseDep
) -> JsonObject:
    """Score a revision; the answer is the run, which `GET` follows to its ``value`` and ``stderr``."""
    check_questions(body)
    evaluated = await _named(gateway, caller, body)
    asked = await _questions(gateway, caller, body, evaluated.base)
    run = _run(derive_id("evr", cause), caller, evaluated, asked)
    return await gateway.rollout.evaluate(caller.tenant_id, run)


@router.post("/compare", status_code=202, dependencies=[creates("run", "run_id")])
async def begin_comparison(
    body: CompareBody, caller: TrainCaller, gateway: GatewayDep, cause: CauseDep
) -> JsonObject:
    """Score two models on the same prompts with the same seeds; `GET` follows both runs to the comparison."""
    check_questions(body)
    models = {"run": body.model, "baseline": body.baseline}
    found = {side: await gateway.registry.resolve(caller.tenant_id, name) for side, name in models.items()}
    asked = await _questions(gateway, caller, body, *(each.base for each in found.values()))
    sides: JsonObject = {
        side: _run(derive_id("evr", cause, side), caller, each, asked) for side, each in found.items()
    }
    return await gateway.rollout.compare(caller.tenant_id, sides)


@router.get("/compare")
async def get_comparison(
    run: Label,
    baseline: Label,
    caller: TrainCaller,
    gateway: GatewayDep,
    rows: Annotated[int, Query(ge=0, le=100)] = 20,
) -> JsonObject:
    """Compare two runs that were asked the same: ``comparison`` is null until both have succeeded.

    ``rows`` of it are shown, those that differ most. A run whose rows are no longer kept is refused.
    """
    return await gateway.rollout.comparison(caller.tenant_id, run, baseline=baseline, rows=rows)


@router.get("/run")
async def list_runs(caller: ReadCaller, gateway: GatewayDep, limit: LimitQuery = 100) -> list[JsonObject]:
    """List the tenant's newest runs, newest first, without their graders."""
    return await gateway.rollout.evaluations(caller.tenant_id, limit=limit)


@router.get("/run/{run}")
async def get_run(run: str, caller: ReadCaller, gateway: GatewayDep) -> JsonObject:
    """Return a run: ``scored`` of ``n`` prompts, and at its end ``value`` and ``stderr``."""
    return await gateway.rollout.evaluation(caller.tenant_id, run)


@router.get("/run/{run}/rows")
async def list_rows(
    run: str, caller: TrainCaller, gateway: GatewayDep, limit: LimitQuery = 100, after: RowQuery = 0
) -> list[JsonObject]:
    """List the answers of a run that has ended, each with its score, behind row ``after``.

    The newest 64 runs of a tenant keep them.
    """
    return await gateway.rollout.evaluation_rows(caller.tenant_id, run, limit=limit, after=after)


@router.post("/run/{run}/cancel")
async def cancel_run(run: str, caller: TrainCaller, gateway: GatewayDep) -> JsonObject:
    """Stop a run. One that has ended stays as it is; a score that is recorded at this moment stays too."""
    return await gateway.rollout.cancel_evaluation(caller.tenant_id, run)


def _run(run_id: str, caller: Caller, evaluated: Resolution, asked: JsonObject) -> JsonObject:
    """Return a run as rollout takes it; without a revision it is of the bare base."""
    named = {
        "run_id": run_id,
        "base": evaluated.base,
        "policy_id": evaluated.policy_id,
        "policy": evaluated.policy_name or "",
        "revision": evaluated.revision,
        "caller": caller,
    }
    return named | asked


async def _questions(gateway: Gateway, caller: Caller, asked: Questions, *bases: BaseName) -> JsonObject:
    """Return what a run of each of these bases is asked. Raises NotFound, InvalidField."""
    max_context = min([(await gateway.registry.get_base(base)).max_context for base in bases])
    if asked.file is None:
        task = await gateway.rollout.task(str(asked.task))
        return plan_task(asked, task_defaults(task), max_context=max_context)
    file = await gateway.files.keeper.get(caller.tenant_id, check_id(IdPrefix.FILE, asked.file))
    plan = plan_file(asked, file, max_context=max_context)
    if asked.grader is not None:
        await checked_grader(asked.grader, caller, gateway)
    for base in bases:
        await gateway.tinker.trainers.find(base)  # it renders the rows
    return plan


async def _named(gateway: Gateway, caller: Caller, body: EvaluationRunBody) -> Resolution:
    if (body.policy is None) == (body.model is None):
        raise InvalidField(field="policy", problem="give a policy or a model: one of both")
    if body.policy is None:
        if body.revision != LATEST:
            raise InvalidField(field="revision", problem="goes with policy: a model is policy@revision")
        return await gateway.registry.resolve(caller.tenant_id, str(body.model))
    policy = await gateway.registry.get_policy(caller.tenant_id, body.policy)
    revision = await _revision(gateway, policy, str(body.revision))
    return Resolution(
        base=policy.base, policy_id=policy.policy_id, policy_name=policy.name, revision=revision
    )


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
    alias = await gateway.registry.find_alias(policy.tenant_id, policy.policy_id, name)
    if alias is not None:
        return alias.revision
    if name == BEST:
        return (await gateway.registry.get_revision(policy.tenant_id, policy.policy_id, BEST)).ref
    aliases = await gateway.registry.list_aliases(policy.tenant_id, policy.policy_id)
    names = [LATEST] * (policy.latest is not None) + [alias.alias for alias in aliases]
    near = ", ".join(difflib.get_close_matches(name, names) or names[:5])
    raise NotFound(kind="revision", name=name[:100], near=near)
