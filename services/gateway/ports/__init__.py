"""What the gateway needs of the outside that is its own: submitted jobs, and questions to rollout.

The registry and the engines are asked through `mint_common.client`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from mint_common.catalog import Resolution
from mint_common.claims import Claim, RevisionRef
from mint_common.events import JobSubmitted
from mint_common.generation import EngineInfo
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId
from mint_common.training import CheckpointRecord
from services.gateway.core.audit import AuditRow
from services.gateway.core.idempotency import KeyedRequest, StoredAnswer
from services.gateway.core.json_types import JsonObject
from services.gateway.core.mint.job_warnings import TaskLengths
from services.gateway.core.mint.submission import SubmittedJob
from services.gateway.core.tinker.futures import FutureState
from services.gateway.core.tinker.ids import CheckpointPath
from services.gateway.core.tinker.records import ClientSession, FinishReason, TrainingRun
from services.gateway.core.tinker.samples import SampleOrder
from services.gateway.core.tinker.sampling_sessions import SamplingOpening
from services.gateway.core.webhooks.records import (
    Attempt,
    DeliveryRecord,
    DeliveryState,
    DueWebhook,
    Notice,
    Webhook,
    WebhookChange,
)
from services.gateway.core.webhooks.retries import Health, Outcome


class Submissions(Protocol):
    """Jobs that users have submitted, each stored in one transaction with its ``job.submitted``."""

    async def submit(
        self, event: JobSubmitted, *, cause: str, policy: str, warnings: Sequence[str]
    ) -> SubmittedJob:
        """Store a job and its event; return the stored job, unchanged, when the cause is known.

        ``cause`` identifies the request; ``policy`` is the policy's name now.
        """
        ...

    async def get(self, tenant_id: TenantId, job_id: JobId) -> SubmittedJob | None:
        """Return one submitted job of a tenant."""
        ...

    async def last_task(self, tenant_id: TenantId, policy_id: PolicyId) -> str | None:
        """Return the task of a policy's newest job, None without any."""
        ...

    async def latest(
        self, tenant_id: TenantId, *, limit: int, also: Sequence[str] = ()
    ) -> Sequence[SubmittedJob]:
        """Return a tenant's ``limit`` newest submitted jobs and those with the ids ``also``, newest first."""
        ...


class Resolver(Protocol):
    """Resolves model names, once per request; an answer may be cached.

    It is used until an event reports a change, and at most `resolution_lease_seconds`. After a move the
    former revision may answer for `switch_seconds`, while it is ready and the new one is not.
    """

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what answers in a name. Raises NotFound, Unavailable; never falls back to the base."""
        ...

    def known(self, tenant_id: TenantId, model: str) -> Resolution | None:
        """Return what answered last, if it is cached; it may be stale."""
        ...

    def forget(self, tenant_id: TenantId, policy: str) -> None:
        """Mark the names of a policy, given by id or name, as stale."""
        ...

    def withdraw(self, tenant_id: TenantId, policy: str) -> None:
        """Do the same, and let no former revision answer."""
        ...


class Requests(Protocol):
    """Requests that change something: their first answers, for a day, and the audit log."""

    async def begin(self, request: KeyedRequest) -> StoredAnswer | None:
        """Take a request's key, or return the first answer of the same request.

        Raises IdempotencyConflict when the key came with other content, RequestAtWork while there is no
        answer yet; a key without an answer is free again a minute after `begin` or the last `keep`.
        """
        ...

    async def keep(self, request: KeyedRequest) -> None:
        """Extend the lease of the request that took the key."""
        ...

    async def finish(self, request: KeyedRequest, answer: StoredAnswer) -> None:
        """Store the answer to the request that took the key, unless another one has it by now."""
        ...

    async def abandon(self, request: KeyedRequest) -> None:
        """Give back a key whose request changed nothing."""
        ...

    async def prune(self) -> None:
        """Forget answers that are older than a day."""
        ...

    async def log(self, tenant_id: TenantId, row: AuditRow) -> None:
        """Append to a tenant's audit log."""
        ...

    async def audit(self, tenant_id: TenantId, *, limit: int, before: int | None) -> Sequence[AuditRow]:
        """Return a tenant's audit log, newest first, from below a row's ``place``."""
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

    async def evaluations(self, tenant_id: TenantId, *, limit: int) -> list[JsonObject]:
        """Return a tenant's newest evaluation runs, newest first."""
        ...

    async def evaluation(self, tenant_id: TenantId, run_id: str) -> JsonObject:
        """Return one evaluation run."""
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

    async def cancel(self, tenant_id: TenantId, job_id: str) -> JsonObject:
        """Stop a job. Idempotent."""
        ...


class SamplerCheckpoints(Protocol):
    """Finds sampler checkpoints of a tenant, and public ones."""

    async def find(self, path: CheckpointPath, tenant_id: TenantId) -> tuple[CheckpointRecord, RevisionRef]:
        """Return one with its revision. Raises NotFound, also when it has expired or cannot be served."""
        ...


class TinkerRuns(Protocol):
    """Sessions of Tinker clients and their training runs. Lists are newest first, but a session's runs."""

    async def add_session(self, session: ClientSession) -> None:
        """Keep a session, unless there is one of that id."""
        ...

    async def session(self, session_id: str) -> ClientSession | None:
        """Return a session of any tenant."""
        ...

    async def see_session(self, session_id: str, *, now: float) -> None:
        """Note that its client lives."""
        ...

    async def finish_session(self, session_id: str, reason: FinishReason, detail: str | None) -> None:
        """Note how it ended; the first word stands."""
        ...

    async def set_project(self, session_id: str, project_id: str) -> None:
        """Move a session to a project."""
        ...

    async def sessions(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, before: tuple[float, str] | None = None
    ) -> Sequence[ClientSession]:
        """Return a tenant's sessions; ``before`` is the time and id of the last one of the page before."""
        ...

    async def add_run(self, run: TrainingRun) -> TrainingRun:
        """Keep a training run. One that has the id already stays as it is, and is returned."""
        ...

    async def run(self, model_id: str) -> TrainingRun | None:
        """Return a training run of any tenant."""
        ...

    async def run_of_policy(self, policy_id: str) -> TrainingRun | None:
        """Return the training run of a policy."""
        ...

    async def runs(
        self, tenant_id: TenantId, *, limit: int, offset: int = 0, project_id: str | None = None
    ) -> tuple[Sequence[TrainingRun], int]:
        """Return a page of a tenant's runs, and how many there are in all."""
        ...

    async def runs_of_session(self, session_id: str) -> Sequence[TrainingRun]:
        """Return a session's runs, oldest first."""
        ...

    async def bases(self, tenant_id: TenantId) -> Sequence[BaseName]:
        """Return the bases that a tenant has runs over, by name."""
        ...

    async def owners(self) -> Sequence[tuple[TenantId, BaseName]]:
        """Return every tenant with each base that it has runs over."""
        ...


class TinkerFutures(Protocol):
    """Requests that were answered with a future, of one kind: request ids begin with what the kind says.

    Training operations (``op:``) are durable, samples (``smp_``) are lost with the process.
    """

    async def outcome(
        self, request_id: str, tenant_id: TenantId, *, wait_seconds: float, as_protobuf: bool
    ) -> FutureState:
        """Return a request's answer, FuturePending if it is not there in time. Repeatable.

        Raises FutureGone for one that is not known (any more), or another tenant's.
        """
        ...


class Samples(TinkerFutures, Protocol):
    """Samples from their order to their answer, in the memory of this process."""

    async def describe(self, base: BaseName) -> EngineInfo:
        """Return what an engine of a base says of itself, or last said. Raises Unavailable."""
        ...

    def submit(self, order: SampleOrder) -> str:
        """Queue a sample and return its request id; a repeated order is the same sample.

        Raises Overloaded when the key has too much queued, SampleConflict when the number was another
        sample's.
        """
        ...

    def cancel(self, request_id: str, tenant_id: TenantId) -> None:
        """Give a sample up. Idempotent."""
        ...


class SamplingSessions(Protocol):
    """Sampling sessions, each on one revision that stays servable while its client lives."""

    async def open(self, opening: SamplingOpening) -> str:
        """Return the id of the sampling session, made if it is not there. Idempotent by session and seq."""
        ...

    async def get(self, sampling_session_id: str) -> SamplingOpening | None:
        """Return a sampling session of any tenant, with its current revision."""
        ...

    async def of_session(self, session_id: str) -> Sequence[str]:
        """Return the ids of a session's sampling sessions, oldest first."""
        ...

    async def digests(self) -> set[Digest]:
        """Return the revisions of sampling sessions whose clients live."""
        ...

    async def prune(self) -> None:
        """Forget the sampling sessions of clients that were last heard of long ago."""
        ...


class RevisionFiles(Protocol):
    """The files of stored adapters. Raises BlobMissing, BlobCorrupt; both also within a stream."""

    async def find(self, manifest: Claim) -> Mapping[str, Claim]:
        """Return the files that PEFT reads, by name."""
        ...

    def read(self, claim: Claim) -> AsyncIterator[bytes]:
        """Yield a file in parts."""
        ...

    def read_tar(self, files: Mapping[str, Claim]) -> AsyncIterator[bytes]:
        """Yield a plain tar of files."""
        ...


class TrainingSessions(Protocol):
    """The training sessions of every trainer."""

    async def digests(self) -> set[Digest]:
        """Return the exports that sessions go on from. Raises Unavailable unless every trainer answers."""
        ...


class Webhooks(Protocol):
    """The webhooks of tenants and the log of what was sent to them. Raises NotFound."""

    async def add(self, webhook: Webhook, secret: str, *, at_most: int) -> None:
        """Keep a new webhook. Raises TooManyWebhooks when its tenant has ``at_most`` already."""
        ...

    async def list(self, tenant_id: TenantId) -> Sequence[Webhook]:
        """Return a tenant's webhooks, oldest first."""
        ...

    async def get(self, tenant_id: TenantId, webhook_id: str) -> Webhook:
        """Return a tenant's webhook."""
        ...

    async def change(self, tenant_id: TenantId, webhook_id: str, change: WebhookChange) -> Webhook:
        """Change what is given; made active, its failures are forgotten."""
        ...

    async def rotate(
        self, tenant_id: TenantId, webhook_id: str, secret: str, *, previous_until: float
    ) -> None:
        """Sign with a new secret from now on, and with the old one too for a while."""
        ...

    async def remove(self, tenant_id: TenantId, webhook_id: str) -> None:
        """Remove a webhook and its log."""
        ...

    async def deliveries(
        self, webhook_id: str, *, state: DeliveryState | None, limit: int, before: str | None
    ) -> Sequence[DeliveryRecord]:
        """Return deliveries, newest first; ``before`` is the last id of the page before."""
        ...

    async def delivery(self, webhook_id: str, delivery_id: str) -> DeliveryRecord:
        """Return one delivery."""
        ...

    async def replay(self, webhook_id: str, delivery_id: str, *, now: float) -> DeliveryRecord:
        """Deliver once more under the same id, with the patience of a new delivery."""
        ...


class WebhookQueue(Protocol):
    """What is to be sent to webhooks. Durable; shared by every gateway. Raises Unavailable."""

    async def add(self, tenant_id: TenantId, notice: Notice, *, now: float) -> int:
        """Queue an event for every webhook that wants it, once each; return for how many. Idempotent."""
        ...

    async def take(self, *, now: float, lease_seconds: float, limit: int) -> DueWebhook | None:
        """Take the webhook that has been due for longest, for a lease's time at most; None: none is due."""
        ...

    async def close(
        self, webhook_id: str, outcomes: Sequence[tuple[str, Attempt, Outcome]], health: Health
    ) -> None:
        """Note what became of a turn's deliveries, by their ids, and give the webhook back."""
        ...

    async def prune(self, *, before: float) -> None:
        """Forget deliveries that ended, of before a time."""
        ...


class WebhookSender(Protocol):
    """Requests to addresses that tenants chose."""

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Attempt:
        """Post a message. Never raises for what the receiver, its name or its address does."""
        ...
