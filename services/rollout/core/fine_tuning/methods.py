"""The algorithm of a job on a file, and what of OpenAI's API no algorithm has."""

from mint_common.algorithms import OPENAI_METHODS, Algorithm, Algorithms, own_methods
from mint_common.errors import InvalidField
from mint_common.fine_tuning_requests import FineTuningBody, Method, MintFields
from mint_common.job_errors import JobRefused
from mint_common.json_types import JsonObject


def algorithm_of_job(body: FineTuningBody, algorithms: Algorithms) -> Algorithm:
    """Return the algorithm. Raises InvalidField for settings of another one."""
    extras, method = body.mint or MintFields(), body.method
    algorithm = algorithms.named(OPENAI_METHODS[method.type if method else "supervised"])
    if method is not None:
        _check_settings(method)
    if extras.method is not None:
        rows = None if method is None else algorithm.rows
        algorithm = _own_algorithm(extras.method, algorithms)
        if rows not in (None, algorithm.rows):
            raise InvalidField(
                field="method", problem=f"is OpenAI's: mint.method {algorithm.name} stands alone"
            )
    if extras.beta is not None and (extras.method is None or algorithm.pull != "beta"):
        problem = "is of mint.method kto; that of dpo is method.dpo.hyperparameters.beta"
        raise InvalidField(field="mint.beta", problem=problem)
    if algorithm.samples_rows and (method is None or method.reinforcement is None):
        raise InvalidField(field="method.reinforcement", problem="is missing: it has the grader")
    return algorithm


def _own_algorithm(name: str, algorithms: Algorithms) -> Algorithm:
    own = own_methods(algorithms)
    if name not in own:
        raise InvalidField(field="mint.method", problem=f"must be one of {', '.join(own)}, got {name[:64]!r}")
    return algorithms.named(name)


def _check_settings(method: Method) -> None:
    for name in OPENAI_METHODS:
        if name != method.type and getattr(method, name) is not None:
            raise InvalidField(field=f"method.{name}", problem=f"is not of the type {method.type}")


def checked_integrations(body: FineTuningBody, *, is_recorded: bool) -> tuple[JsonObject, ...]:
    """Return the integrations of a request. Raises JobRefused if the tenant's jobs are not recorded."""
    if body.integrations and not is_recorded:
        problem = (
            "The operator of this stack does not record your jobs at W&B. Omit it and run `mint track --to "
            "wandb`, or read the metrics in the job's events and result file."
        )
        raise JobRefused(reason="integration_not_supported", field="integrations", problem=problem)
    return tuple(each.model_dump(mode="json") for each in body.integrations or ())


def check_supported(body: FineTuningBody) -> None:
    """Refuse what OpenAI's API has and this one has not. Raises JobRefused."""
    settings = body.method.reinforcement if body.method else None
    if settings is None:
        return
    numbers = settings.hyperparameters
    if numbers is not None and numbers.reasoning_effort not in (None, "default"):  # it may be unhashable
        raise JobRefused(
            reason="reasoning_effort_not_supported",
            field="method.reinforcement.hyperparameters.reasoning_effort",
            problem="Only the reasoning_effort 'default' is served: a base thinks as its chat template says.",
        )
    if settings.response_format is not None:
        raise JobRefused(
            reason="response_format_not_supported",
            field="method.reinforcement.response_format",
            problem="Samples of a job are not guided by a response_format: let the grader read their form.",
        )
