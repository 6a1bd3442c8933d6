"""Why no job is made of a request. Each is a 400 in OpenAI's shape, with the parameter and a stable code."""

from collections.abc import Sequence

from mint_common.catalog import PolicyRecord
from mint_common.datasets import Problem
from mint_common.errors import InvalidField, MintError
from mint_common.ids import JobId
from mint_common.job_errors import JobRefused
from services.rollout.core.fine_tuning.names import shown_id

GRADER_FIELD = "method.reinforcement.grader"


def file_not_found(field: str, file_id: str) -> JobRefused:
    """Return the refusal of a file that its tenant does not have, even if another tenant has it."""
    problem = f"There is no file {file_id[:100]!r}: upload it with purpose 'fine-tune' first."
    return JobRefused(reason="file_not_found", field=field, problem=problem)


def model_not_found(model: str, bases: Sequence[str]) -> JobRefused:
    """Return the refusal of a model that is neither a base nor a policy of the tenant."""
    near = f" Bases are: {', '.join(bases)}." if bases else ""
    problem = f"There is no base and no policy {model[:100]!r}.{near}"
    return JobRefused(reason="model_not_found", field="model", problem=problem)


def not_newest(model: str, policy: PolicyRecord) -> JobRefused:
    """Return the refusal of a revision that is not its policy's newest."""
    newest = f"is at {policy.name}@{policy.latest.number}" if policy.latest else "has no revision"
    problem = (
        f"{model[:100]} is not the newest revision: policy {policy.name} {newest}, and is trained on from"
        f" there. Name {policy.name}, or a base for a new policy."
    )
    return JobRefused(reason="not_newest", field="model", problem=problem)


def job_ended(name: str, state: str, verb: str) -> JobRefused:
    """Return the refusal of what cannot be done to a job that has ended."""
    problem = f"Job {name[:100]} has ended ({state}): there is nothing to {verb}."
    return JobRefused(reason="job_ended", field="job_id", problem=problem)


def file_in_use(file_id: str, job_id: JobId) -> JobRefused:
    """Return the refusal to remove a file that a job reads."""
    problem = f"Job {shown_id(job_id)} reads file {file_id}: cancel it first, or wait until it has ended."
    return JobRefused(reason="file_in_use", field="file_id", problem=problem)


def results_stay(file_id: str) -> JobRefused:
    """Return the refusal to delete the results of a job."""
    problem = f"File {file_id} is made of its job when it is read: there is nothing to delete."
    return JobRefused(reason="file_of_results", field="file_id", problem=problem)


def row_refused(field: str, problem: Problem) -> JobRefused:
    """Return the refusal of a row that the base's trainer cannot render."""
    told = f"Line {problem.line}: {problem.message}"
    return JobRefused(reason=problem.code, field=field, problem=told, line=problem.line)


def grader_refused(error: MintError) -> MintError:
    """Return the refusal of a grader by its field in the request; return retryable errors unchanged."""
    if error.retryable:
        return error
    if isinstance(error, InvalidField):
        where = GRADER_FIELD + str(error.field).removeprefix("grader")
        return InvalidField(field=where, problem=str(error.problem))
    return JobRefused(reason=error.code, field=GRADER_FIELD, problem=str(error))
