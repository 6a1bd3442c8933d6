"""Execute an operation of one policy: bring its state into memory, then do the work."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec

from mint_common.algorithms import AlgorithmUnknown
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.errors import BlobCorrupt, BlobMissing, EventInvalid, InvalidField, MintError
from mint_common.records import WaveRecord, decode_record
from mint_common.training import (
    CheckpointRecord,
    CheckpointRef,
    Closed,
    Distill,
    Distilled,
    Export,
    Ingredient,
    Load,
    Loaded,
    Open,
    Opened,
    Pass,
    Result,
    Save,
    Step,
)
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.attempts import MAX_READS
from services.trainer.core.batch import Batch
from services.trainer.core.minibatches import minibatch
from services.trainer.core.operations import (
    ExecutionFailed,
    ExportLineage,
    StoredOperation,
    TrainingSession,
    Unreadable,
)
from services.trainer.core.policy_work import (
    Clear,
    Copy,
    Distillation,
    ExportWeights,
    PolicyWork,
    Replace,
    StateExport,
    TakeStep,
)
from services.trainer.core.refusals import CheckpointLost, RecordInvalid
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import (
    LoadRevision,
    LoggedOperation,
    WaveExport,
    WavePass,
    changes_state,
    is_full_reset,
)
from services.trainer.handlers.committer import Committer
from services.trainer.handlers.lease_term import LeaseTerm, prune_snapshots, unpack

T = TypeVar("T")

_REPLAYED_TOGETHER = 64
_SMALL_BYTES = 1 << 18
"""Maximum size of a record that is read and checked in milliseconds."""

Work = LoggedOperation | WaveBatch
"""An operation with all that computing it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateResult:
    """The result of an operation that saves, loads or closes: see `Executed`."""

    result: Result | None = None
    state: bytes | None = None
    export: StateExport | None = None


class Executor:
    """Executes one policy's operations. ``settled`` waits until all that was executed is committed."""

    def __init__(self, term: LeaseTerm, committer: Committer, settled: Callable[[], Awaitable[None]]) -> None:
        self._term = term
        self._committer = committer
        self._settled = settled
        self._lost: MintError | None = None

    @property
    def _session(self) -> TrainingSession:
        return self._committer.session

    async def restore(self, *, alone: bool = False) -> None:
        """Bring the policy into memory, with the state after all executed operations.

        Raises CheckpointLost when required bytes are gone; after any other error it may work later.
        """
        policies, policy_id = self._term.policies, self._session.policy_id
        if policies.has(policy_id):
            policies.keep(policy_id)
            return
        if self._lost is not None:
            raise self._lost
        await self._settled()
        is_restored = False
        try:
            await self._restore(alone=alone)
            is_restored = True
        except (BlobMissing, BlobCorrupt) as error:
            self._lost = CheckpointLost(uri=str(error.uri), problem=str(error))
            raise self._lost from error
        finally:
            if not is_restored:
                policies.forget(policy_id)  # what is in memory is not what was executed

    async def restore_counted(self, *, alone: bool = False) -> None:
        """Restore without an operation. Raises also ExecutionFailed, if processes have died of it."""
        problem = f"the trainer ended {MAX_READS} times while the policy was restored"
        refusal, policy_id = ExecutionFailed(problem=problem), self._session.policy_id
        async with self._term.reads.counted(policy_id, limit=MAX_READS, refusal=refusal):
            await self.restore(alone=alone)

    async def _restore(self, *, alone: bool) -> None:
        session = await self._term.store.session(self._session.policy_id)
        assert session is not None, self._session
        data = None if session.snapshot is None else await self._term.blobs.get(session.snapshot)
        try:
            await self._term.policies.admit(session.policy_id, session.lora, data=data)
        except CheckpointLost as error:
            raise Unreadable(what="the policy's snapshot", problem=str(error.problem)) from error
        executed = await self._term.store.executed_after(session.policy_id, session.snapshot_position)
        for begin in range(0, len(executed), _REPLAYED_TOGETHER):
            await self._replay(executed[begin : begin + _REPLAYED_TOGETHER], alone=alone)
        self._term.policies.take_seconds(session.policy_id)  # repeated work is not charged
        await self._term.reads.forget(session.policy_id)
        await prune_snapshots(self._term, session)

    async def _replay(self, executed: Sequence[StoredOperation], *, alone: bool) -> None:
        """Do again what changed the state. A step that was refused had cleared the gradient."""
        works = [work for stored in executed for work in await self._done_again(stored)]
        again: list[Awaitable[object]] = []
        for work in works:
            if work is None:
                again.append(self._begin(Clear(), alone=alone))
            elif isinstance(work, Step) or _adds_gradient(work):
                again.append(self.begin(work, alone=alone))
        for result in await asyncio.gather(*again, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _done_again(self, stored: StoredOperation) -> list[Work | None]:
        """Return the replayed work of an executed operation, if it may have changed the state; None is
        clearing.
        """
        if stored.is_refused and stored.payload is not None and stored.payload.is_claim:
            return []  # no step, and its reading may be what it was refused for
        operation = await self.read(stored)
        if stored.is_refused:
            return [None] if isinstance(operation, Step) else []
        if not changes_state(operation):
            return []
        try:
            return [await self.ready(operation) if isinstance(operation, WavePass) else operation]
        except RecordInvalid as error:
            if isinstance(error.__cause__, BlobMissing | BlobCorrupt):
                raise error.__cause__ from error
            raise Unreadable(what="the record of a wave", problem=str(error)) from error

    async def read(self, stored: StoredOperation) -> LoggedOperation:
        """Return a stored operation. Raises BlobMissing, BlobCorrupt, Unavailable, Unreadable."""
        payload = stored.payload or await self._term.store.payload(stored.policy_id, stored.seq)
        return read_operation(await unpack(self._term.blobs, payload))

    async def ready(self, operation: WavePass) -> WaveBatch:
        """Return a wave's pass with what its record holds. Raises RecordInvalid, Unreadable."""
        record = await read_record(self._term.blobs, operation.record)
        try:
            algorithm = self._term.algorithms.of(operation)
        except AlgorithmUnknown as error:
            raise Unreadable(what="the pass of a wave", problem=str(error)) from error
        build = partial(algorithm.build_batch, record, pulls=operation.pulls)
        return with_batch(self._term.algorithms, operation, await beside(operation.record, build))

    def begin(self, work: Work, *, alone: bool = False) -> Awaitable[object]:
        """Queue a computation: a pass, a step, or a wave's export."""
        session = self._session
        match work:
            case Pass() | WaveBatch():
                policies = self._term.policies
                return policies.begin_pass(session.policy_id, session.tenant_id, work, alone=alone)
            case Step():
                return self._begin(TakeStep(step=work, needs_gradient=session.is_managed), alone=alone)
            case _:
                assert isinstance(work, WaveExport), work
                return self._begin_export()

    def _begin(self, work: PolicyWork[T], *, alone: bool = False) -> Awaitable[T]:
        session = self._session
        return self._term.policies.begin(session.policy_id, session.tenant_id, work, alone=alone)

    def _begin_export(self) -> Awaitable[StateExport]:
        lineage = ExportLineage(digest=self._session.digest, parent=self._session.parent)
        return self._begin(ExportWeights(after=lineage))

    async def execute(self, work: Work, *, alone: bool = False) -> object:
        """Execute an operation whatever it is."""
        if isinstance(work, Pass | Step | WaveBatch):
            return await self.begin(work, alone=alone)
        return await self._keep(work, alone=alone)

    async def _keep(self, operation: LoggedOperation, *, alone: bool) -> StateResult:
        """Execute an operation that saves, loads, distills or ends."""
        match operation:
            case Open():
                return await self._open(operation)
            case Load() | LoadRevision():
                if isinstance(operation, Load):
                    step = await self._load(operation.checkpoint, with_optimizer=operation.with_optimizer)
                else:
                    step = await self._load_revision(operation)
                return StateResult(result=Loaded(step=step), state=await self.copy(with_gradient=True))
            case Distill():
                result = await self._distill(operation, alone=alone)
                # Done again it would need the teacher, which may be gone by then.
                return StateResult(result=result, state=await self.copy(with_gradient=True))
            case Save():
                return StateResult(state=await self.copy(with_gradient=False))
            case Export() | WaveExport():
                # What it comes after may be an export that is not committed yet.
                await self._settled()
                return StateResult(export=await self._begin_export())
            case _:
                return StateResult(result=Closed())

    def copy(self, *, with_gradient: bool) -> Awaitable[bytes]:
        """Queue a copy of the state."""
        return self._begin(Copy(with_gradient=with_gradient))

    async def _open(self, operation: Open) -> StateResult:
        await self._term.policies.admit(self._session.policy_id, operation.lora, data=None)
        if operation.mixture:
            step = await self._mix(operation.mixture)
        elif operation.checkpoint is not None:
            step = await self._load(operation.checkpoint, with_optimizer=operation.with_optimizer)
        else:
            return StateResult(result=Opened(step=0))
        return StateResult(result=Opened(step=step), state=await self.copy(with_gradient=True))

    async def _distill(self, distill: Distill, *, alone: bool) -> Distilled:
        # The teacher may be what this policy was a moment ago.
        await self._settled()
        session = self._session
        record = await self._term.readable(distill.teacher, session.tenant_id)
        if record.base != session.base:
            problem = f"a checkpoint of {record.base!r}, not of {session.base!r}"
            raise InvalidField(field="reference_model_path", problem=problem)
        weights = await self._term.states.mix(record.lora, [record], [1.0])
        return await self._begin(
            Distillation(distill=distill, teacher=record.lora, data=weights), alone=alone
        )

    async def _load(self, ref: CheckpointRef, *, with_optimizer: bool) -> int:
        # The checkpoint may be one that this policy saved a moment ago.
        await self._settled()
        record = await self._term.readable(ref, self._session.tenant_id)
        check_same_lora(record, self._session)
        return await self._replace(await self._checkpoint(record.claim), with_optimizer=with_optimizer)

    async def _replace(self, data: bytes, *, with_optimizer: bool) -> int:
        """Replace the state by a checkpoint's; return its step."""
        return await self._begin(Replace(lora=self._session.lora, data=data, with_optimizer=with_optimizer))

    async def _load_revision(self, load: LoadRevision) -> int:
        session, policies = self._session, self._term.policies
        if not is_full_reset(load):
            return await self._graft(load)
        await policies.admit(session.policy_id, session.lora, data=None)
        step = None
        try:
            step = await self._graft(load)
        finally:
            if step is None:
                policies.forget(session.policy_id)  # what is in memory is nothing to train on
        self._lost = None
        return step

    async def _graft(self, load: LoadRevision) -> int:
        """Put a revision's weights into the state in memory; return its step."""
        if load.revision is None:
            return 0
        before, lora = await self.copy(with_gradient=False), self._session.lora
        resets = load.resets_moments
        data = await self._term.states.at(load.revision, lora, before, resets_moments=resets)
        return await self._replace(data, with_optimizer=True)

    async def _mix(self, mixture: Sequence[Ingredient]) -> int:
        session = self._session
        records = [await self._term.readable(part.checkpoint, session.tenant_id) for part in mixture]
        for record in records:
            check_same_lora(record, session)
        coefficients = [part.coefficient for part in mixture]
        data = await self._term.states.mix(session.lora, records, coefficients)
        return await self._replace(data, with_optimizer=False)

    async def _checkpoint(self, claim: Claim) -> bytes:
        try:
            return await self._term.blobs.get(claim)
        except (BlobMissing, BlobCorrupt) as error:
            raise CheckpointLost(uri=claim.uri, problem=str(error)) from error


def with_batch(algorithms: ManagedAlgorithms, operation: WavePass, batch: Batch) -> WaveBatch:
    """Return a wave's pass with what its record holds. Raises AlgorithmUnknown."""
    part = minibatch(batch, operation.minibatch, count=operation.minibatches)
    work = algorithms.of(operation).wave_batch(
        part, operation.config, backward=operation.backward, is_file=operation.is_file
    )
    return replace(work, is_later=operation.epoch > 0 or operation.minibatch > 0)


async def beside(record: Claim, work: Callable[[], T]) -> T:
    """Do something with a record: in a thread where it is large, since the lease is renewed on the loop."""
    return work() if record.size_bytes <= _SMALL_BYTES else await asyncio.to_thread(work)


async def read_record(blobs: Blobs, claim: Claim) -> WaveRecord:
    """Return a wave's rollout record. Raises RecordInvalid."""
    try:
        data = await blobs.get(claim)
        return await beside(claim, lambda: decode_record(data))
    except (BlobMissing, BlobCorrupt, EventInvalid) as error:
        raise RecordInvalid(where=claim.uri, problem=str(error)) from error


def _adds_gradient(work: Work) -> bool:
    return (isinstance(work, Pass) and work.backward) or (isinstance(work, WaveBatch) and work.adds_gradient)


def read_operation(data: bytes) -> LoggedOperation:
    """Return an encoded operation. Raises Unreadable for one of another version."""
    try:
        operation: LoggedOperation = msgspec.msgpack.decode(data, type=LoggedOperation)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreadable(what="an operation", problem=str(error)) from error
    return operation


def decoded(stored: StoredOperation) -> LoggedOperation | StoredOperation:
    """Return an operation that came with its bytes; any other is read when its turn comes."""
    if stored.payload is None or stored.payload.is_claim:
        return stored
    try:
        return read_operation(stored.payload.data)
    except Unreadable:
        return stored  # its policy waits for a trainer that can read it


def check_same_lora(record: CheckpointRecord, session: TrainingSession) -> None:
    """Refuse a checkpoint of another base or another shape of LoRA. Raises InvalidField."""
    if record.base != session.base:
        raise InvalidField(field="path", problem=f"a checkpoint of {record.base!r}, not of {session.base!r}")
    found = (record.lora.rank, record.lora.alpha, record.lora.targets)
    if found != (session.lora.rank, session.lora.alpha, session.lora.targets):
        problem = f"a checkpoint of LoRA {record.lora}, this policy has {session.lora}"
        raise InvalidField(field="path", problem=problem)
