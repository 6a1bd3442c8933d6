"""What the gateway needs for clients of the Tinker API, and to read the adapters that they trained."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from mint_common.claims import Claim, RevisionRef
from mint_common.generation import EngineInfo
from mint_common.ids import BaseName, Digest, TenantId
from mint_common.training import CheckpointRecord
from services.gateway.core.tinker.futures import FutureState
from services.gateway.core.tinker.ids import CheckpointPath
from services.gateway.core.tinker.records import ClientSession, FinishReason, TrainingRun
from services.gateway.core.tinker.samples import SampleOrder
from services.gateway.core.tinker.sampling_sessions import SamplingOpening


class Checkpoints(Protocol):
    """Finds checkpoints of a tenant, and public ones. Raises NotFound for all others."""

    async def find(
        self, path: CheckpointPath, tenant_id: TenantId, *, own: bool = False
    ) -> tuple[TrainingRun, CheckpointRecord]:
        """Return one with its run; ``own``: only a tenant's own."""
        ...

    async def find_sampler(
        self, path: CheckpointPath, tenant_id: TenantId
    ) -> tuple[CheckpointRecord, RevisionRef]:
        """Return one for samplers with its revision. Raises what says that it cannot be served."""
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
        """Yield a plain tar of files: the same bytes every time."""
        ...

    def tar_bytes(self, files: Mapping[str, Claim]) -> int:
        """Return how many bytes that tar has."""
        ...
