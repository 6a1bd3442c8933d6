"""What the gateway needs for managed jobs: their submissions, and questions to rollout."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from mint_common.events import JobSubmitted
from mint_common.ids import JobId, PolicyId, TenantId
from services.gateway.core.fine_tuning.records import FineTuning, TunedJob, Verb
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.job_warnings import TaskLengths
from services.gateway.core.mint.submission import SubmittedJob

Shape = TypeVar("Shape")


class Submissions(Protocol):
    """Jobs that users have submitted, each stored in one transaction with its ``job.submitted``."""

    async def submit(
        self,
        event: JobSubmitted,
        *,
        cause: str,
        policy: str,
        warnings: Sequence[str],
        fine_tuning: FineTuning | None = None,
    ) -> SubmittedJob:
        """Store a job and its event; return the stored job, unchanged, when the cause is known.

        ``cause`` identifies the request; ``policy`` is the policy's name now. Raises JobRefused when a file
        of the job has been deleted meanwhile.
        """
        ...

    async def get(self, tenant_id: TenantId, job_id: JobId) -> SubmittedJob | None:
        """Return one submitted job of a tenant."""
        ...

    async def last_task(self, tenant_id: TenantId, policy_id: PolicyId) -> str | None:
        """Return the task of a policy's newest job, None without a job or when that one is on a file."""
        ...

    async def latest(
        self, tenant_id: TenantId, *, limit: int, also: Sequence[str] = ()
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's ``limit`` newest submitted jobs and those with the ids ``also``, newest first."""
        ...

    async def on_files(
        self, tenant_id: TenantId, *, metadata: Mapping[str, str] | None, after: JobId | None, limit: int
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's jobs on files from below ``after``, newest first. Raises NotFound.

        They have all of ``metadata``; with None they have none at all.
        """
        ...

    async def promoting(self) -> Sequence[tuple[TenantId, SubmittedJob]]:
        """Return the jobs of all tenants whose promotion is open."""
        ...

    async def end_promotion(self, job_id: JobId, *, problem: str) -> None:
        """Store what came of a job's promotion, if it is open; an empty ``problem``: the alias was moved."""
        ...

    async def using(self, tenant_id: TenantId, file_id: str) -> Sequence[SubmittedJob]:
        """Return the jobs that train or are evaluated on a file, newest first."""
        ...


class Rollout(Protocol):
    """The rollout service. Raises its MintErrors (NotFound names the task or job), or Unavailable."""

    async def tasks(self) -> object:
        """Return every task."""
        ...

    async def task(self, name: str) -> JsonObject:
        """Return one task, with the ``defaults`` that it recommends for jobs."""
        ...

    async def draw_prompts(self, task: str, body: JsonObject) -> object:
        """Return prompts of a task's split. Pure: the same seed gives the same prompts."""
        ...

    async def score(self, task: str, body: JsonObject) -> object:
        """Return the rewards of texts."""
        ...

    async def lengths(self, task: str, *, base: str, n: int, seed: int) -> TaskLengths:
        """Measure ``n`` prompts that a job with this seed begins with."""
        ...

    async def evaluate(self, tenant_id: TenantId, run: JsonObject) -> JsonObject:
        """Begin an evaluation run, which is durable then; one of the same ``run_id`` is the same run."""
        ...

    async def compare(self, tenant_id: TenantId, sides: JsonObject) -> JsonObject:
        """Begin two evaluation runs, ``run`` and ``baseline``, or none of both; else as `evaluate`."""
        ...

    async def evaluations(self, tenant_id: TenantId, *, limit: int) -> list[JsonObject]:
        """Return a tenant's newest evaluation runs, newest first."""
        ...

    async def evaluation(self, tenant_id: TenantId, run_id: str) -> JsonObject:
        """Return one evaluation run."""
        ...

    async def evaluation_rows(
        self, tenant_id: TenantId, run_id: str, *, limit: int, after: int
    ) -> list[JsonObject]:
        """Return answers of one run behind row ``after``, by row."""
        ...

    async def comparison(self, tenant_id: TenantId, run_id: str, *, baseline: str, rows: int) -> JsonObject:
        """Return two runs, and how they compare once both have succeeded. Raises InvalidField."""
        ...

    async def cancel_evaluation(self, tenant_id: TenantId, run_id: str) -> JsonObject:
        """Stop an evaluation run. Idempotent."""
        ...

    async def jobs(self, tenant_id: TenantId, *, limit: int) -> list[JsonObject]:
        """Return a tenant's newest jobs, newest first."""
        ...

    async def job(self, tenant_id: TenantId, job_id: str) -> JsonObject:
        """Return one job with its steps."""
        ...

    async def progress(self, tenant_id: TenantId, job_id: JobId, *, steps: bool) -> TunedJob:
        """Return how far a job on a file is, with its steps if they are asked for."""
        ...

    async def delete_file(self, tenant_id: TenantId, file_id: str) -> None:
        """Have all erased that was made of the rows of a file, which no open job reads. Idempotent."""
        ...

    async def steer(self, tenant_id: TenantId, job_id: str, verb: Verb, shape: type[Shape]) -> Shape:
        """Stop a job, let it rest after its open step, or go on; return it without steps. Idempotent.

        One that has ended stays as it is when it is cancelled; the other verbs raise InvalidField.
        """
        ...
