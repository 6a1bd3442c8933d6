"""Ports of the rollout service."""

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from mint_common.claims import RevisionRef
from mint_common.datasets import Rendering, RenderRequest
from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec
from mint_common.ids import BaseName, JobId, PolicyId, TenantId, WaveId
from mint_common.records import Prompt
from services.rollout.core.erasure import EndedJob
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.job import Job
from services.rollout.core.progress import Progress
from services.rollout.core.sampling import GroupRequest, ReadSequence, SampledGroup
from services.rollout.core.task import Split, TaskInfo
from services.rollout.core.wave import Wave

Connection = TypeVar("Connection")
Connection_contra = TypeVar("Connection_contra", contravariant=True)


class Tasks(Protocol):
    """The installed tasks, run in other processes, which tenants share fairly.

    Every call raises NotFound with near matches, TaskLeftOut, and TaskFailed, which names the task, when the
    task's code is wrong or takes too long. A call that is cancelled stops its work.
    """

    async def describe_all(self) -> list[TaskInfo]:
        """Return every task, by name. A family that does not load is left out."""
        ...

    async def describe(self, name: str) -> TaskInfo:
        """Return one task."""
        ...

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Return ``n`` prompts of a split: the same ones for the same seed."""
        ...

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return the rewards of texts, each with the entry of the prompt that it answers."""
        ...


class Sampler(Protocol):
    """The engines. Raises Overloaded and Unavailable, which are retryable, and other MintErrors."""

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Return the completions. Cancelling aborts the request on the engine."""
        ...

    async def read(self, request: GroupRequest) -> ReadSequence:
        """Return the log-probabilities of the prompt's own tokens, which must leave room for one more."""
        ...

    async def tokenize(self, base: BaseName, text: str) -> tuple[int, ...]:
        """Return the token ids of a text, with the tokens that the tokenizer puts before every text."""
        ...

    async def stop_token(self, base: BaseName) -> int:
        """Return the id of the token that ends a completion."""
        ...

    async def max_context(self, base: BaseName) -> int:
        """Return how many tokens a prompt and its completion may have together."""
        ...


class RendersRows(Protocol):
    """The trainers, which have the bases' chat templates. Pure: the same rows give the same tokens."""

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Return each row's rendering. Raises InvalidField, Overloaded, Unavailable."""
        ...


class Graders(Protocol):
    """Graders of rows. Retries during outages by itself, and raises no error for them."""

    async def grade(
        self, spec: GraderSpec, samples: Sequence[GradedSample], *, tenant_id: TenantId
    ) -> list[Grade | GraderFault]:
        """Return the reward of each sample, in order, or why it has none. Cancelling ends it soon."""
        ...


class PolicyHistory(Protocol):
    """The registry's record of a policy."""

    async def latest(self, tenant_id: TenantId, policy_id: PolicyId) -> RevisionRef | None:
        """Return the policy's newest published revision. Raises NotFound, Unavailable."""
        ...


class Scores(Protocol):
    """Store of revisions' scores."""

    async def record(self, run: EvaluationRun) -> None:
        """Record the score of a run of a policy's revision. Idempotent. Raises NotFound, Unavailable."""
        ...

    async def record_metrics(
        self, job: Job, revision: RevisionRef, metrics: Mapping[str, float], *, n: int
    ) -> None:
        """Record a job's scores of a revision over ``n`` rows, with the job as author, as suite ``job:<id>``.

        Idempotent. Raises NotFound, Unavailable.
        """
        ...


class TrainedRecords(Protocol):
    """The trainers, which read records of waves."""

    async def release(self, job: EndedJob) -> frozenset[str]:
        """Return the keys of records that training of the job's policy may still read.

        No other record of the job becomes needed later. Raises Unavailable.
        """
        ...


class JobStore(Protocol, Generic[Connection_contra]):
    """Jobs and their waves. ``connection`` is that of an open ledger transaction."""

    async def lock(self, connection: Connection_contra, job_id: JobId) -> Job:
        """Return a job, locked until the transaction ends. Raises NotFound."""
        ...

    async def save(self, connection: Connection_contra, job: Job, waves: Sequence[Wave]) -> None:
        """Insert or replace a job and some of its waves."""
        ...

    async def job(self, job_id: JobId) -> Job:
        """Return a job as last committed. Raises NotFound."""
        ...

    async def jobs_of(self, tenant_id: TenantId, *, limit: int) -> list[Job]:
        """Return a tenant's newest jobs, newest first, without their graders, which may be large."""
        ...

    async def waves_of(self, job_id: JobId, *, within: Connection_contra | None = None) -> list[Wave]:
        """Return a job's waves by step, read ``within`` an open transaction where one is given."""
        ...

    async def progress_of(self, jobs: Sequence[Job]) -> Mapping[JobId, Progress]:
        """Return how far each of these jobs is, by its waves: see `core.progress`."""
        ...

    async def unscored_waves(self, job_id: JobId, steps: Sequence[int]) -> list[Wave]:
        """Return a job's waves of these steps that have a revision but no score yet, by step."""
        ...

    async def wave(self, wave_id: WaveId, *, within: Connection_contra | None = None) -> Wave | None:
        """Return one wave, read ``within`` an open transaction where one is given."""
        ...

    async def next_of(self, policy_id: PolicyId) -> Job | None:
        """Return the first waiting job of a policy, or None while another one runs, or is paused midway."""
        ...

    async def lock_next(self, connection: Connection_contra, policy_id: PolicyId) -> Job | None:
        """Return the same and lock the start of the policy's jobs until the transaction ends."""
        ...

    async def overdue(self, *, before: float) -> list[PolicyId]:
        """Return the policies with a job that waits since ``before`` although no other one holds it back."""
        ...

    async def scored_by_runs(self) -> list[Job]:
        """Return the jobs that have not ended and whose revisions are measured by evaluation runs."""
        ...

    async def touch(self, job_id: JobId, *, now: float) -> bool:
        """Record progress of a job; return whether it still runs."""
        ...

    async def claim_stalled(self, *, before: float, waiting_since: float | None, now: float) -> list[Job]:
        """Return the running jobs without progress since ``before``, each to one caller only.

        Not those whose open wave is not sampled yet, if they had progress after ``waiting_since``. A claim
        counts as progress, so that a job is claimed again only after another such time.
        """
        ...
