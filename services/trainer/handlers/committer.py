"""Makes results of operations durable: blobs first, then everything of one in one transaction.

Invariant: results are committed in the order of execution, and published only then.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from mint_common.adapters_format import store_adapter
from mint_common.claims import Claim
from mint_common.errors import AlreadyExists, MintError
from mint_common.events import RevisionExported
from mint_common.ids import PolicyId, derive_id
from mint_common.training import (
    CheckpointRecord,
    Close,
    Export,
    Exported,
    Open,
    Operation,
    Result,
    Save,
    Saved,
)
from services.trainer import metrics
from services.trainer.core.operations import ExportLineage, FinishedOperation, Snapshot, TrainingSession
from services.trainer.handlers.lease_term import LeaseTerm, outcome_of, pack, result_key, state_key
from services.trainer.ports.policies import StateCopy, StateExport


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """An operation that was executed, and what has to be stored before that can be committed.

    ``result`` is None where only the commit makes it: a save, an export.
    """

    seq: int
    position: int
    operation: Operation | MintError
    result: Result | MintError | None
    step: int
    closes: bool = False
    state: StateCopy | None = None
    export: StateExport | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether nothing but its result is to be committed."""
        return not (self.closes or self.state or self.export)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpublished:
    """An encoded outcome, and what is counted when it is published."""

    outcome: bytes
    kind: str
    came: str


class Committer:
    """Commits the results of one policy's operations."""

    def __init__(
        self, term: LeaseTerm, session: TrainingSession, on_committed: Callable[[int], None]
    ) -> None:
        self.session = session
        self.covered = session.snapshot_position
        self._term = term
        self._on_committed = on_committed
        self._unpublished: dict[int, _Unpublished] = {}

    async def commit(self, executed: Sequence[Executed]) -> None:
        """Commit some operations in order, together where that is possible."""
        plain: list[FinishedOperation] = []
        for one in executed:
            if one.is_plain:
                assert one.result is not None, one
                plain.append(await self._finished(one, one.result))
                continue
            await self._commit_plain(plain)
            plain = []
            await self._commit_alone(one)
        await self._commit_plain(plain)

    async def _commit_plain(self, finished: Sequence[FinishedOperation]) -> None:
        if finished:
            await self._term.finishing.put_all(finished)
            self._tell(finished)

    async def _commit_alone(self, one: Executed) -> None:
        try:
            if one.export is not None:
                await self._commit_export(one, one.export)
            elif isinstance(one.operation, Save) and one.state is not None:
                await self._commit_save(one, one.operation, one.state)
            else:
                await self._commit_state(one)
        except AlreadyExists as error:
            finished = await self._finished(one, error)
            await self._commit_plain([finished])

    async def _commit_save(self, one: Executed, save: Save, state: StateCopy) -> None:
        claim = await self._store(state, "checkpoints", one.seq)
        record = self._record(one, save, claim=claim, name=save.name)
        finished = await self._finished(one, Saved(checkpoint=record))
        try:
            await self._finish(replace(finished, checkpoint=record, replaces=save.overwrite))
        except AlreadyExists:
            await self._term.discard([claim])
            raise

    async def _commit_state(self, one: Executed) -> None:
        """Commit an operation after which the session goes on from elsewhere, or not at all."""
        assert one.result is not None, one
        finished = await self._finished(one, one.result)
        if one.state is not None:
            claim = await self._store(one.state, "snapshots", one.position)
            snapshot = Snapshot(policy_id=self.session.policy_id, position=one.position, claim=claim)
            finished = replace(finished, snapshot=snapshot)
        await self._finish(replace(finished, closes=one.closes))
        self.covered = max(self.covered, one.position if one.state else 0)

    async def _commit_export(self, one: Executed, export: StateExport) -> None:
        assert isinstance(one.operation, Export), one
        session, adapter = self.session, export.adapter
        export_id = export_id_of(session.policy_id, one.seq)
        manifest = await store_adapter(self._term.blobs, adapter, export_id=export_id)
        record = None
        if one.operation.name is not None:
            record = self._record(one, one.operation, claim=manifest, name=one.operation.name)
            record = msgspec.structs.replace(record, kind="sampler", revision=adapter.digest)
        result = Exported(export_id=export_id, digest=adapter.digest, step=export.step, checkpoint=record)
        lineage = ExportLineage(digest=adapter.digest, parent=export.parent)
        finished = replace(await self._finished(one, result), checkpoint=record, lineage=lineage)
        exported = RevisionExported(
            tenant_id=session.tenant_id,
            base=session.base,
            export_id=export_id,
            policy_id=session.policy_id,
            job_id=None,
            wave_id=None,
            digest=adapter.digest,
            manifest=manifest,
            parent=export.parent,
            step=export.step,
            metrics={},
        )
        async with self._term.ledger.transaction(export_id) as transaction:
            await self._term.store.finish_within(transaction.connection, self._term.token, finished)
            await transaction.emit(exported)
        self.session = replace(session, digest=lineage.digest, parent=lineage.parent)
        self._tell([finished])

    def _record(
        self, one: Executed, operation: Save | Export, *, claim: Claim, name: str
    ) -> CheckpointRecord:
        now = self._term.clock.now()
        ttl = operation.ttl_seconds
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
            expires_at=None if ttl is None else now + ttl,
            is_public=False,
            metadata=operation.metadata,
        )

    async def _finished(self, one: Executed, result: Result | MintError) -> FinishedOperation:
        policy_id = self.session.policy_id
        outcome = msgspec.msgpack.encode(outcome_of(result))
        came = "refused" if isinstance(result, MintError) else "done"
        self._unpublished[one.seq] = _Unpublished(
            outcome=outcome, kind=type(one.operation).__name__.lower(), came=came
        )
        return FinishedOperation(
            policy_id=policy_id,
            seq=one.seq,
            position=one.position,
            result=await pack(self._term.blobs, result_key(policy_id, one.seq), outcome),
            is_refused=isinstance(result, MintError),
            step=one.step,
            finished_at=self._term.clock.now(),
            closes=one.closes,
        )

    async def _finish(self, finished: FinishedOperation) -> None:
        await self._term.discard(await self._term.store.finish(self._term.token, [finished]))
        self._tell([finished])

    async def _store(self, state: StateCopy, kind: str, number: int) -> Claim:
        sha256 = hashlib.sha256(state.data).hexdigest()
        return await self._term.blobs.put(state_key(self.session.policy_id, kind, number, sha256), state.data)

    async def snapshot(self, position: int, state: StateCopy) -> None:
        """Make a copy of the state after a position, all of which is committed, the session's snapshot."""
        claim = await self._store(state, "snapshots", position)
        metrics.SNAPSHOT_BYTES.inc(claim.size_bytes)
        snapshot = Snapshot(policy_id=self.session.policy_id, position=position, claim=claim)
        await self._term.discard(await self._term.store.put_snapshot(self._term.token, snapshot))
        self.covered = max(self.covered, position)

    def _tell(self, finished: Sequence[FinishedOperation]) -> None:
        for one in finished:
            unpublished = self._unpublished.pop(one.seq)
            metrics.OPERATIONS.labels(unpublished.kind, unpublished.came).inc()
            self._on_committed(one.seq)
            self._term.outcomes.put((one.policy_id, one.seq), unpublished.outcome)


def export_id_of(policy_id: PolicyId, seq: int) -> str:
    """Return the name of an operation's export, which is also the cause of its event."""
    return derive_id("export", policy_id, seq)


def closes(operation: Operation | MintError, result: object) -> bool:
    """Return whether an operation ends the session: a close does, and an open that failed."""
    failed = isinstance(result, MintError)
    return isinstance(operation, Close) or (failed and isinstance(operation, Open))
