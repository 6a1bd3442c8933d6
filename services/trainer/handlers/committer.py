"""Makes results of operations durable: blobs first, then everything of one in one transaction.

Invariant: results are committed in the order of execution, and published only then.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from mint_common.adapters_format import store_adapter
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, AlreadyHandled, MintError
from mint_common.events import Event, TrainingFailed
from mint_common.telemetry import tracing
from mint_common.training import (
    CheckpointRecord,
    Close,
    Done,
    Export,
    Exported,
    Open,
    Outcome,
    Result,
    Save,
    Saved,
)
from services.trainer import metrics
from services.trainer.core.operations import (
    UNEXPORTED,
    ExportLineage,
    FinishedOperation,
    Packed,
    Snapshot,
    StoredOperation,
    TrainingSession,
    expiry_of,
)
from services.trainer.core.policy_work import StateExport
from services.trainer.core.wave_batch import WavePassed
from services.trainer.core.wave_operations import (
    LoadRevision,
    LoggedOperation,
    WaveExport,
    changes_state,
    has_stepped,
)
from services.trainer.handlers.lease_term import (
    INLINE_BYTES,
    LeaseTerm,
    outcome_of,
    pack,
    result_key,
    state_key,
    unpack,
)
from services.trainer.handlers.parking import Parking
from services.trainer.handlers.wave_exports import Comparisons, export_id_of, exported_event, note_trained

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """An executed operation, and what must be stored before its commit.

    ``result`` is None if the commit creates it: a save, an export.
    """

    seq: int
    position: int
    operation: LoggedOperation | StoredOperation
    result: Result | MintError | None
    step: int
    closes: bool = False
    state: bytes | None = None
    export: StateExport | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether nothing but its result is to be committed."""
        return not (self.closes or self.state or self.export)


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedWave:
    """The remaining operations of a wave; one was refused, so all are."""

    operations: Sequence[Executed]
    export: WaveExport
    error: MintError


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpublished:
    """An encoded outcome, and what to count when it is published."""

    outcome: bytes
    kind: str
    came: str


class Committer:
    """Commits the results of one policy's operations. ``collect`` puts those here that have been computed."""

    def __init__(
        self,
        term: LeaseTerm,
        session: TrainingSession,
        parking: Parking,
        *,
        collect: Callable[[], None],
        on_waiting: Callable[["Committer"], None],
        on_committed: Callable[[int], None],
    ) -> None:
        self.session = session
        self.covered = session.snapshot_position
        self.committed = session.position
        self._term = term
        self._parking = parking
        self._collect = collect
        self._on_waiting = on_waiting
        self._on_committed = on_committed
        self._waiting: deque[Executed | RefusedWave] = deque()
        self._unpublished: dict[int, _Unpublished] = {}
        self._traces: dict[int, dict[str, str]] = {}
        self._moved = asyncio.Event()
        self._comparisons = Comparisons(term.blobs, parking)

    def note_trace(self, seq: int) -> None:
        """Note the current trace as that in which an operation came; its events belong to it."""
        self._traces[seq] = tracing.inject({})

    def put(self, executed: Executed | RefusedWave) -> None:
        """Commit an operation after earlier ones."""
        self._waiting.append(executed)
        self._on_waiting(self)

    async def settled(self, position: int) -> None:
        """Wait until everything is committed that was executed up to a position."""
        while self.committed < position:
            self._moved.clear()
            await self._moved.wait()

    @property
    def is_waiting(self) -> bool:
        """Return whether there is something to commit."""
        return bool(self._waiting)

    def take_plain(self, limit: int) -> list[FinishedOperation]:
        """Take the next results that can share a transaction; the committing caller publishes them."""
        self._collect()
        taken: list[FinishedOperation] = []
        while self._waiting and len(taken) < limit:
            one = self._waiting[0]
            if not (isinstance(one, Executed) and one.is_plain and one.result is not None):
                break
            finished = self._encoded(one, one.result)
            if len(finished.result.data) > INLINE_BYTES:
                break
            taken.append(finished)
            self._waiting.popleft()
        return taken

    async def commit_next(self) -> None:
        """Commit the next operation in a transaction of its own."""
        one = self._waiting.popleft()
        seq = one.operations[0].seq if isinstance(one, RefusedWave) else one.seq
        with tracing.extracted(self._traces.get(seq)):
            await self._commit_alone(one)

    async def _commit_alone(self, one: Executed | RefusedWave) -> None:
        if isinstance(one, RefusedWave):
            await self._commit_refusal(one)
            return
        try:
            if one.export is not None:
                await self._commit_export(one, one.export)
            elif isinstance(one.operation, Save) and one.state is not None:
                await self._commit_save(one, one.operation, one.state)
            else:
                await self._commit_state(one)
        except AlreadyExists as error:
            await self._finish(await self._finished(one, error))

    async def _commit_save(self, one: Executed, save: Save, state: bytes) -> None:
        claim = await self._parking.until_done(lambda: self._store(state, "checkpoints", one.seq))
        record = self._record(one, save, claim=claim, name=save.name)
        finished = await self._finished(one, Saved(checkpoint=record))
        try:
            await self._finish(replace(finished, checkpoint=record, replaces=save.overwrite))
        except AlreadyExists:
            await self._term.discard([claim])
            raise

    async def _commit_state(self, one: Executed) -> None:
        """Commit an operation that moves the session to another state or ends it."""
        assert one.result is not None, one
        finished = await self._finished(one, one.result)
        if (state := one.state) is not None:
            store = partial(self._store, state, "snapshots", one.position)
            claim = await self._parking.until_done(store)
            snapshot = Snapshot(policy_id=self.session.policy_id, position=one.position, claim=claim)
            finished = replace(finished, snapshot=snapshot)
        lineage = None
        if isinstance(one.operation, LoadRevision):
            revision = one.operation.revision
            lineage = ExportLineage(digest=revision.digest if revision else None, parent=None)
        await self._finish(replace(finished, closes=one.closes, lineage=lineage))
        self._note_lineage(lineage)
        self.covered = max(self.covered, one.position if one.state else 0)

    async def _commit_export(self, one: Executed, export: StateExport) -> None:
        session, adapter, operation = self.session, export.adapter, one.operation
        assert isinstance(operation, Export | WaveExport), one
        wave = operation if isinstance(operation, WaveExport) else None
        export_id = wave.wave_id if wave else export_id_of(session.policy_id, one.seq)
        store = partial(store_adapter, self._term.blobs, adapter, export_id=export_id)
        manifest = await self._parking.until_done(store)
        record = None
        if isinstance(operation, Export) and operation.name is not None:
            record = self._record(one, operation, claim=manifest, name=operation.name)
            record = msgspec.structs.replace(record, kind="sampler", revision=adapter.digest)
        result = Exported(export_id=export_id, digest=adapter.digest, step=export.step, checkpoint=record)
        lineage = ExportLineage(digest=adapter.digest, parent=export.parent)
        finished = replace(await self._finished(one, result), checkpoint=record, lineage=lineage)
        measured = await self._measured(wave) if wave else ()
        exported = exported_event(
            session, export, manifest, export_id=export_id, wave=wave, measured=measured
        )
        compared = await self._comparisons.stored(session, wave) if wave else []
        await self._finish_with(wave.cause if wave else export_id, [*compared, exported], [finished])
        self._note_lineage(lineage)
        if wave:
            note_trained(exported, measured)

    async def _measured(self, export: WaveExport) -> list[Result]:
        """Return the results of a wave's pass and its step, which are committed."""
        rows = await self._term.store.results(self.session.policy_id, export.measured)
        found = [await self._parking.until_done(partial(unpack, self._term.blobs, row)) for row in rows]
        outcomes = [msgspec.msgpack.decode(data, type=Outcome) for data in found]
        return [one.result for one in outcomes if isinstance(one, Done)]

    async def _commit_refusal(self, refused: RefusedWave) -> None:
        finished = [await self._finished(one, refused.error) for one in refused.operations]
        export, session = refused.export, self.session
        failed = TrainingFailed(
            tenant_id=session.tenant_id,
            base=session.base,
            wave_id=export.wave_id,
            job_id=export.job_id,
            policy_id=session.policy_id,
            code=refused.error.code,
            reason=str(refused.error),
        )
        first, seq, lineage = refused.operations[0].operation, refused.operations[0].seq, None
        if isinstance(first, StoredOperation) or not changes_state(first) or has_stepped(export, seq):
            # The step before was taken.
            lineage = ExportLineage(digest=UNEXPORTED, parent=session.digest)
        finished[-1] = replace(finished[-1], refuses=export.wave_id, lineage=lineage)
        self._comparisons.take(export.measured)
        await self._finish_with(export.cause, [failed], finished)
        self._note_lineage(lineage)
        metrics.STEPS.labels("failed").inc()
        _log.warning("wave refused", extra={"wave_id": export.wave_id, "code": refused.error.code})

    async def _finish_with(
        self, cause: str, events: Sequence[Event], finished: Sequence[FinishedOperation]
    ) -> None:
        """Commit operations and their events."""
        term = self._term
        try:
            async with term.ledger.transaction(cause) as transaction:
                unused = await term.store.finish_within(transaction.connection, term.holder, finished)
                await transaction.emit(*events)
        except AlreadyHandled:
            # Its job was failed when the wave was taken in, as it seemed: there is nothing more to tell.
            unused = await term.store.finish(term.holder, finished)
        await term.discard(unused)
        self.tell(finished)

    def _note_lineage(self, lineage: ExportLineage | None) -> None:
        if lineage is not None:
            self.session = replace(self.session, digest=lineage.digest, parent=lineage.parent)

    def _record(
        self, one: Executed, operation: Save | Export, *, claim: Claim, name: str
    ) -> CheckpointRecord:
        now = self._term.clock.now()
        return CheckpointRecord(
            policy_id=self.session.policy_id,
            tenant_id=self.session.tenant_id,
            kind="training",
            name=name,
            base=self.session.base,
            lora=self.session.lora,
            step=one.step,
            claim=claim,
            revision=None,
            created_at=now,
            expires_at=expiry_of(operation.ttl_seconds, now=now),
            is_public=False,
            metadata=operation.metadata,
        )

    async def _finished(self, one: Executed, result: Result | MintError) -> FinishedOperation:
        """Return the committed form of an operation; a big result is then a blob."""
        finished = self._encoded(one, result)
        key = result_key(self.session.policy_id, one.seq)
        store = partial(pack, self._term.blobs, key, finished.result.data)
        return replace(finished, result=await self._parking.until_done(store))

    def _encoded(self, one: Executed, result: Result | MintError) -> FinishedOperation:
        if isinstance(result, WavePassed):
            self._comparisons.note(one.seq, result)
            result = result.committed()
        outcome = msgspec.msgpack.encode(outcome_of(result))
        came = "refused" if isinstance(result, MintError) else "done"
        kind = "unread"
        if not isinstance(one.operation, StoredOperation):
            kind = str(one.operation.__struct_config__.tag)
        self._unpublished[one.seq] = _Unpublished(outcome=outcome, kind=kind, came=came)
        return FinishedOperation(
            policy_id=self.session.policy_id,
            seq=one.seq,
            position=one.position,
            result=Packed(data=outcome),
            is_refused=isinstance(result, MintError),
            step=one.step,
            finished_at=self._term.clock.now(),
            closes=one.closes,
            seconds=self._term.policies.take_seconds(self.session.policy_id),
        )

    async def _finish(self, finished: FinishedOperation) -> None:
        await self._term.discard(await self._term.store.finish(self._term.holder, [finished]))
        self.tell([finished])

    async def _store(self, state: bytes, kind: str, number: int) -> Claim:
        sha256 = hashlib.sha256(state).hexdigest()
        return await self._term.blobs.put(state_key(self.session.policy_id, kind, number, sha256), state)

    async def snapshot(self, position: int, state: bytes) -> None:
        """Make a copy of the state after a position, all of which is committed, the session's snapshot."""
        claim = await self._store(state, "snapshots", position)
        metrics.SNAPSHOT_BYTES.inc(claim.size_bytes)
        snapshot = Snapshot(policy_id=self.session.policy_id, position=position, claim=claim)
        await self._term.discard(await self._term.store.put_snapshot(self._term.holder, snapshot))
        self.covered = max(self.covered, position)

    def tell(self, finished: Sequence[FinishedOperation]) -> None:
        """Publish a committed outcome."""
        self.committed = max(self.committed, *(one.position for one in finished))
        self._moved.set()
        for one in finished:
            unpublished = self._unpublished.pop(one.seq)
            self._traces.pop(one.seq, None)
            metrics.OPERATIONS.labels(unpublished.kind, unpublished.came).inc()
            self._term.backlog.end(self.session.tenant_id, one.policy_id, one.seq)
            self._on_committed(one.seq)
            if not self.session.is_managed:
                self._term.outcomes.put((one.policy_id, one.seq), unpublished.outcome)


def closes(operation: LoggedOperation | StoredOperation, result: object) -> bool:
    """Return whether an operation ends the session: a close does, and an open that failed."""
    failed = isinstance(result, MintError)
    return isinstance(operation, Close) or (failed and isinstance(operation, Open))
