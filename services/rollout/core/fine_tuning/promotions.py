"""Promotion of a job's result: an alias is pointed at it when the job has succeeded. Pure.

A limit is of the metric that the job's revisions are compared by: ``at_most`` of a loss, ``at_least`` of any
other, as in rules.
"""

from mint_common.authority import Authority, Caller, held_scopes
from mint_common.catalog import AliasRecord, KeyRecord, Scope
from mint_common.errors import AliasProtected, InvalidField
from mint_common.events import EvaluationPlan
from mint_common.fine_tuning_requests import FineTuningBody
from mint_common.json_types import JsonObject
from mint_common.names import JOB_ACTOR, check_alias_name
from services.rollout.core.fine_tuning.records import Promotion
from services.rollout.core.job import Job
from services.rollout.core.job_view import JobProgress

_FIELD = "mint.promote"


def plan_promotion(
    body: FineTuningBody, evaluation: EvaluationPlan | None, caller: Caller
) -> Promotion | None:
    """Return the requested promotion; None: none. Raises InvalidField."""
    wish = body.mint.promote if body.mint else None
    if wish is None:
        return None
    try:
        check_alias_name(wish.alias)
    except InvalidField as error:
        raise InvalidField(field=f"{_FIELD}.alias", problem=str(error.problem)) from error
    for name in ("at_least", "at_most"):
        if getattr(wish, name) is not None:
            _check_limit(name, evaluation)
    return Promotion(
        alias=wish.alias,
        at_least=wish.at_least,
        at_most=wish.at_most,
        asked_by=caller.actor,
        key_id=caller.key_id,
        is_admin=caller.is_admin,
    )


def _check_limit(name: str, evaluation: EvaluationPlan | None) -> None:
    if evaluation is None:
        problem = "needs validation_file, or mint.evaluation.holdout: nothing is measured without"
        raise InvalidField(field=f"{_FIELD}.{name}", problem=problem)
    fitting = "at_most" if evaluation.metric == "valid_loss" else "at_least"
    if name != fitting:
        problem = f"is not for {evaluation.metric}, of which a promotion has {fitting}"
        raise InvalidField(field=f"{_FIELD}.{name}", problem=problem)


def check_alias(alias: AliasRecord, promotion: Promotion) -> None:
    """Refuse an alias that would not be moved as it is now. Raises AliasProtected, InvalidField."""
    if alias.protected and not promotion.is_admin:
        raise AliasProtected(alias=alias.alias)
    if alias.frozen:
        raise InvalidField(field=f"{_FIELD}.alias", problem=f"{alias.alias!r} is frozen: unfreeze it first")


def why_not_allowed(promotion: Promotion, key: KeyRecord) -> str:
    """Return why the requesting key may no longer move an alias; empty: it may."""
    if key.revoked_at is not None:
        return f"the key {promotion.asked_by!r}, which asked for it, was revoked"
    if "train" not in held_scopes(key.scopes):
        return f"the key {promotion.asked_by!r}, which asked for it, has no longer the scope 'train'"
    return ""


def promoter_of(job: Job, promotion: Promotion, key: KeyRecord) -> Caller:
    """Return the author of the move: the job, with the rights that its key had then and still has."""
    name = f"{JOB_ACTOR}{job.job_id}"
    scope: Scope = "admin" if promotion.is_admin and "admin" in key.scopes else "train"
    authority = Authority(tenant_id=job.tenant_id, key_id=name, scopes=frozenset({scope}))
    return Caller(authority=authority, name=name)


def why_not_promoted(found: JobProgress, promotion: Promotion) -> str:
    """Return why the alias is not moved; empty: it is. The job has ended, and its waves are given."""
    result, plan = found.job.result, found.job.plan
    if result is None:
        return f"the job ended as {found.job.state.value}"
    if plan is None or (promotion.at_least is None and promotion.at_most is None):
        return ""
    waves = (wave for wave in found.waves if wave.revision == result)
    value = next((found.metrics(wave)[plan.metric] for wave in waves), None)
    told = f"{plan.metric} of revision {result.number} is {'not known' if value is None else f'{value:g}'}"
    if promotion.at_least is not None and (value is None or value < promotion.at_least):
        return f"{told}, and must be at least {promotion.at_least:g}"
    if promotion.at_most is not None and (value is None or value > promotion.at_most):
        return f"{told}, and must be at most {promotion.at_most:g}"
    return ""


def promotion_answer(promotion: Promotion) -> JsonObject:
    """Return a promotion as answers show it."""
    return {
        "alias": promotion.alias,
        "at_least": promotion.at_least,
        "at_most": promotion.at_most,
        "state": promotion.state,
        "problem": promotion.problem or None,
    }
