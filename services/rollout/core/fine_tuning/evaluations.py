"""The evaluation plan of a job on a file: interval and rows. Pure."""

from mint_common.algorithms import Algorithm
from mint_common.errors import InvalidField
from mint_common.events import EarlyStopping, EvaluationPlan, JobFile
from mint_common.fine_tuning_requests import FineTuningBody, JobEvaluationBody
from services.rollout.core.fine_tuning.numbers import AskedNumbers

EVALUATIONS = 10
"""About how often a job is evaluated unless its request says."""
READ_ROWS, SAMPLED_ROWS = 1000, 100
"""Rows of an evaluation at most unless the request says: measured by their loss, and by sampling."""


def validation_named(body: FineTuningBody) -> tuple[str, str] | None:
    """Return the validation file's id, and where the request has it. Raises InvalidField for two."""
    evaluation = _evaluation(body)
    if body.validation_file is not None and evaluation.file is not None:
        raise InvalidField(field="mint.evaluation.file", problem="is validation_file, which is there too")
    named = [(body.validation_file, "validation_file"), (evaluation.file, "mint.evaluation.file")]
    found = next(((file, field) for file, field in named if file is not None), None)
    if found is not None and evaluation.holdout is not None:
        problem = f"is a share of the training file, and {found[1]} is there too"
        raise InvalidField(field="mint.evaluation.holdout", problem=problem)
    return found


def trained_rows(body: FineTuningBody, rows: int, *, repeats: int) -> int:
    """Return how many of a file's rows are not held out; ``repeats`` are equal to an earlier one.

    As rollout splits them: ``floor(holdout x rows)`` are held out, or more where equal rows stay together.
    Raises InvalidField for a share that leaves nothing to evaluate on, or nothing to train on.
    """
    holdout = _evaluation(body).holdout or 0.0
    if 0 < holdout * rows < 1:
        problem = f"holds out less than one of {rows} rows"
        raise InvalidField(field="mint.evaluation.holdout", problem=problem)
    if holdout > 0 and rows - repeats < 2:
        problem = f"needs two rows that differ, and all {rows} rows are equal: equal rows are not separated"
        raise InvalidField(field="mint.evaluation.holdout", problem=problem)
    return rows - int(holdout * rows)


def plan_evaluation(
    body: FineTuningBody, asked: AskedNumbers, algorithm: Algorithm, validation: JobFile | None, *, steps: int
) -> EvaluationPlan | None:
    """Return the plan; None when there is nothing to evaluate on. Raises InvalidField."""
    wish = _evaluation(body)
    every, rows = _choose(wish.every, asked, "every"), _choose(wish.rows, asked, "rows")
    metrics = algorithm.metrics
    if wish.metric is not None and wish.metric not in metrics:
        problem = f"is {' or '.join(metrics)} for {algorithm.method}, got {wish.metric}"
        raise InvalidField(field="mint.evaluation.metric", problem=problem)
    if validation is None and wish.holdout is None:
        if body.mint is not None and body.mint.evaluation is not None:
            problem = "needs validation_file, or the holdout share of the training file"
            raise InvalidField(field="mint.evaluation", problem=problem)
        for name in ("eval_interval", "eval_samples"):
            if getattr(asked.reinforcement, name) is not None:
                problem = "needs validation_file, or mint.evaluation.holdout"
                raise InvalidField(field=f"{asked.where}.{name}", problem=problem)
        return None
    stopping = wish.early_stopping
    return EvaluationPlan(
        every=every or max(1, round(steps / EVALUATIONS)),
        rows=rows or (SAMPLED_ROWS if algorithm.samples_rows else READ_ROWS),
        file=validation,
        holdout=wish.holdout or 0.0,
        metric=wish.metric or metrics[0],
        keep=wish.keep,
        early_stopping=None
        if stopping is None
        else EarlyStopping(patience=stopping.patience, min_delta=stopping.min_delta, warmup=stopping.warmup),
    )


def _evaluation(body: FineTuningBody) -> JobEvaluationBody:
    return (body.mint.evaluation if body.mint else None) or JobEvaluationBody()


def _choose(wish: int | None, asked: AskedNumbers, name: str) -> int | None:
    """Return the request's value, from MinT's field or OpenAI's. Raises InvalidField for both."""
    theirs = {"every": "eval_interval", "rows": "eval_samples"}[name]
    other: int | None = getattr(asked.reinforcement, theirs)
    if wish is not None and other is not None:
        raise InvalidField(field=f"mint.evaluation.{name}", problem=f"is {theirs}, which is there too")
    return other if wish is None else wish
