"""What is needed for jobs on files: their submissions, and how rollout carries them out."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mint_common.events import JobSubmitted
from mint_common.ids import JobId, TenantId
from services.gateway.core.fine_tuning.records import FineTuning, TunedJob, Verb
from services.gateway.core.mint.submission import SubmittedJob


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
    """Jobs on files at rollout. Raises its MintErrors (NotFound names the job), or Unavailable."""

    async def check_job_quotas(self, tenant_id: TenantId) -> None:
        """Refuse another job of a tenant that has as much as it may. Raises QuotaExceeded."""
        ...

    async def progress(self, tenant_id: TenantId, job_id: JobId, *, steps: bool) -> TunedJob:
        """Return how far a job on a file is, with its steps if they are asked for."""
        ...

    async def delete_file(self, tenant_id: TenantId, file_id: str) -> None:
        """Have all erased that was made of the rows of a file, which no open job reads. Idempotent."""
        ...

    async def steer(self, tenant_id: TenantId, job_id: str, verb: Verb, shape: type[TunedJob]) -> TunedJob:
        """Stop a job, let it rest after its open step, or go on; return it without steps. Idempotent.

        One that has ended stays as it is when it is cancelled; the other verbs raise InvalidField.
        """
        ...
