"""One policy's operations, from their arrival to their results.

Computable operations go to the scheduler as they arrive, after running ones; any other has the
policy to itself. Invariants: operations are executed in the order that `core/sequence_buffer.py` releases,
committed in that order, and each once; a committed result was computed from everything committed before it; a
fault of the trainer itself costs a replay from the last snapshot, never a result; data that cannot be read or
restored now parks this policy, and no other.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType

from mint_common.claims import Claim
from mint_common.errors import MintError
from mint_common.ids import WaveId
from mint_common.training import Loaded, Opened, Pass, Passed, Result, SessionClosed, Step, Stepped
from mint_common.waiting import wait_for_event
from services.trainer.core.batch import Batch
from services.trainer.core.following import is_new_start, may_follow
from services.trainer.core.operations import NotResident, StoredOperation, TrainingSession
from services.trainer.core.policy_work import StateExport
from services.trainer.core.ranks import RankLost
from services.trainer.core.refusals import CheckpointLost
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import (
    LoggedOperation,
    WaveExport,
    WavePass,
    changes_state,
    is_full_reset,
    passes_of,
    rest_of_wave,
)
from services.trainer.handlers.attempts import Attempts
from services.trainer.handlers.commit_queue import CommitQueue
from services.trainer.handlers.committer import Committer, Executed, RefusedWave, closes
from services.trainer.handlers.executor import Executor, StateResult, Work, decoded, with_batch
from services.trainer.handlers.lease_term import LeaseTerm, begin_task
from services.trainer.handlers.parking import Parking
from services.trainer.handlers.snapshots import Snapshots
from services.trainer.handlers.turns import Turns
from services.trainer.handlers.under_way import UnderWay


class Driver:
    """Drives one policy while the term lasts, until its session is closed or has nothing to do for a while.

    ``is_ended`` says that it takes no more operations, ``is_leaving`` that another trainer goes on with what
    waits. Its tasks belong to ``group``.
    """

    def __init__(
        self,
        term: LeaseTerm,
        commits: CommitQueue,
        group: asyncio.TaskGroup,
        session: TrainingSession,
    ) -> None:
        self.policy_id = session.policy_id
        self.tenant_id = session.tenant_id
        self.is_managed = session.is_managed
        self.is_ended = False
        self.is_leaving = False
        self._term = term
        self._group = group
        self._commits = commits
        self.parking = Parking(term, session, group)
        self._committer = Committer(
            term,
            session,
            self.parking,
            collect=self._collect,
            on_waiting=commits.put,
            on_committed=self._forget,
        )
        self._executor = Executor(term, self._committer, lambda: self._committer.settled(self._position))
        self._turns = Turns(term.clock, session.next_seq, hold_seconds=term.settings.hold_seconds)
        self._live: dict[int, LoggedOperation | StoredOperation] = {}
        self._batches: dict[int, WaveBatch] = {}
        self._refused: set[int] = set()
        self.attempts = Attempts(term, session.policy_id)
        self._under_way = UnderWay()
        self._is_working = False
        self._idle = asyncio.Event()
        self._news = asyncio.Event()
        self._sleeps_until: float | None = None
        self._position = session.position
        self._step = session.step
        self.is_closed = session.closed_at is not None
        self._worked_at = term.clock.monotonic()
        self._snapshots = Snapshots(term, self._committer, self._executor, group, on_done=self._on_snapshot)

    @property
    def waiting(self) -> list[int]:
        """Return the numbers of the operations that wait or are under way here."""
        return list(self._live)

    def knows(self, seq: int) -> bool:
        """Return whether an operation waits or is under way here."""
        return seq in self._live

    async def wait_until_idle(self, *, seconds: float) -> None:
        """Wait until all that arrived is committed, but not longer."""
        if self._live:
            await wait_for_event(self._idle, clock=self._term.clock, seconds=seconds)

    def arrive(
        self,
        operations: Iterable[tuple[int, LoggedOperation | StoredOperation]],
        records: Mapping[Claim, Batch] = MappingProxyType({}),
    ) -> None:
        """Accept operations; those that are only stored are read in their turn.

        A repetition changes nothing. ``records`` are the read records of their wave's passes.
        """
        for seq, operation in operations:
            if seq in self._live:
                continue
            if isinstance(operation, WavePass) and operation.record in records:
                self._batches[seq] = with_batch(self._term.algorithms, operation, records[operation.record])
            self._idle.clear()
            self._live[seq] = operation
            self._committer.note_trace(seq)
            self._turns.arrive(seq)
        self._advance()

    def take_over(self, found: Iterable[StoredOperation]) -> None:
        """Take over operations that the store has, and that may have ended the process that had them."""
        new = [stored for stored in found if stored.seq not in self._live]
        for stored in new:
            self.attempts.found(stored)
        self.arrive((stored.seq, decoded(stored)) for stored in new)

    def skip(self, seq: int) -> None:
        """Stop waiting for a number whose operation was refused."""
        self._turns.skip(seq)
        self._advance()

    def stop_wave(self, wave_id: WaveId, error: MintError) -> None:
        """Refuse a wave with a pass that is with the scheduler and not done."""
        for seq in passes_of(self._live, wave_id):
            self._under_way.stop(seq, error)

    def held_by(self, seq: int) -> int | None:
        """Return the missing number that an operation waits for, if any."""
        return self._turns.held_by(seq)

    def cover(self) -> None:
        """Ensure that a snapshot covers all that was executed, also when nothing more arrives."""
        is_busy = bool(self._live) or self._is_working or self._term.policies.has(self.policy_id)
        if not (is_busy or self.is_closed or self._snapshots.is_covering or self.parking.retry_at):
            self._is_working = True
            begin_task(self._group, self._cover())

    def leave(self) -> None:
        """End when what is under way is committed and a snapshot covers it; begin nothing more."""
        self.is_leaving = not self.is_closed
        self._snapshots.is_urgent = self.is_leaving
        self._advance()

    async def _cover(self) -> None:
        with suppress(CheckpointLost, RankLost):
            if await self.parking.restored(self._executor.restore_counted):
                self.parking.end()
        self._is_working = False
        self._advance()

    async def run(self) -> None:
        """Do work as it becomes due, until none is left."""
        clock = self._term.clock
        while not self._is_past(self._end_due()):
            self._news.clear()
            self._advance()
            self._sleeps_until = moment = self._next_moment()
            if moment is None:
                await self._news.wait()
            else:
                await wait_for_event(self._news, clock=clock, seconds=moment - clock.monotonic())
        self.is_ended = True

    def _advance(self) -> None:
        """Begin all that can begin now."""
        released = self._turns.release()
        if self.parking.parked and self._turns.bring_forward(
            lambda seq: is_new_start(self._live[seq]), released
        ):
            self.parking.end()
        is_snapshot_due = self._is_past(self._snapshot_due)
        if is_snapshot_due and self._is_at_rest:
            self._snapshots.begin(self._position)
        # The position of a state is known when nothing is under way, so a snapshot that is due comes first.
        if self._is_at_rest or not is_snapshot_due:
            self._begin_due()
        self._wake()

    def _wake(self) -> None:
        """Let `run` look again if something becomes due before it would."""
        moment = self._next_moment()
        if moment is not None and (self._sleeps_until is None or moment < self._sleeps_until):
            self._news.set()

    def _next_moment(self) -> float | None:
        moments = [self._turns.release_at, self._end_due()]
        if self._is_at_rest:
            moments += [self._snapshot_due, self.parking.retry_at if self._turns else None]
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def _is_at_rest(self) -> bool:
        return not (self._under_way or self._is_working)

    @property
    def _snapshot_due(self) -> float | None:
        return None if self.is_closed else self._snapshots.due

    def _is_past(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._term.clock.monotonic()

    def _end_due(self) -> float | None:
        """Return when the driver may end: at once when closed, else after idling.

        State in memory goes into a snapshot before; other state was committed, and is recomputed from that.
        """
        if self._snapshots.is_copying or self._is_working or (self._live and not self.is_leaving):
            return None
        if self.is_closed:
            return self._worked_at
        is_whole = self._committer.committed == self._position and not self._under_way
        idle_seconds = 0.0 if self.is_leaving else self._term.settings.idle_seconds
        return self._worked_at + idle_seconds if is_whole and self._snapshots.is_stored else None

    def _begin_due(self) -> None:
        while self._turns and not (
            self.is_leaving or self._is_working or self._under_way.is_void or self.parking.retry_at
        ):
            if self._can_compute(self._turns.first):
                self._compute(self._turns.take())
            elif self._under_way:
                return
            else:
                self._is_working = True
                begin_task(self._group, self._work(self._turns.take()))

    def _can_compute(self, seq: int) -> bool:
        """Return whether an operation can go to the scheduler after the running ones."""
        if self.is_closed or not self._term.policies.has(self.policy_id):
            return False
        work = self._batches.get(seq) or self._live[seq]
        if self.attempts.is_apart(seq) or self.attempts.is_due(seq, work):
            return False
        is_committed = self._committer.committed == self._position
        return may_follow(work, is_under_way=bool(self._under_way), is_committed=is_committed)

    def _compute(self, seq: int) -> None:
        work = self._batches.pop(seq, None) or self._live[seq]
        assert not isinstance(work, StoredOperation), work
        self._worked_at = self._term.clock.monotonic()
        self._term.policies.keep(self.policy_id)
        begun = self._executor.begin(work)
        self._under_way.add(seq, begun, on_done=lambda: self._commits.put(self._committer))

    def _collect(self) -> None:
        """Collect the available results of running operations."""
        while self._under_way.has_result:
            again = self._under_way.take(self._finish_computed)
            self._turns.put_back(*again)
            self._advance()

    def _finish_computed(self, seq: int, result: object) -> bool:
        if seq not in self._live or seq in self._refused or self._finish(seq, result):
            return True
        self._term.policies.forget(self.policy_id)
        return False

    async def _work(self, seq: int) -> None:
        """Do work that needs the policy alone, until an operation is finished or can be computed."""
        self._worked_at = self._term.clock.monotonic()
        (result,) = await asyncio.gather(self._work_on(seq), return_exceptions=True)
        if isinstance(result, MintError) and result.retryable:
            await self.attempts.take_back(seq, result)  # it waits
        if result is None or not self._finish(seq, result):
            self._turns.put_back(seq)
        self._is_working = False
        self._advance()

    async def _work_on(self, seq: int) -> object:
        """Return the result of an operation; None: it can be computed now, or its policy is parked."""
        if self.is_closed:
            raise SessionClosed(policy_id=self.policy_id)
        self.attempts.check(seq)
        if self.attempts.is_apart(seq):
            await self._committer.settled(self._position)  # others apart wait for no slow store
            async with self._term.apart:
                return await self._work_apart(seq)
        if (work := await self._prepare(seq)) is None:
            return None
        await self.attempts.note_due(seq, work)
        return None if isinstance(work, Pass | Step | WaveBatch) else await self._executor.execute(work)

    async def _work_apart(self, seq: int) -> object:
        if (work := await self._prepare(seq, alone=True)) is None:
            return None
        return await self.attempts.noted(seq, lambda: self._executor.execute(work, alone=True))

    async def _prepare(self, seq: int, *, alone: bool = False) -> Work | None:
        """Read an operation and bring its policy into memory; None: the policy is parked."""
        async with self.attempts.reading(seq, operation := self._live[seq]):
            if isinstance(operation, StoredOperation):
                operation = self._live[seq] = await self._executor.read(operation)
            anew, restore = is_full_reset(operation), self._executor.restore
            if not (anew or await self.parking.restored(restore, alone=alone)):
                return None
            if isinstance(operation, WavePass) and seq not in self._batches:
                self._batches[seq] = await self._executor.ready(operation)
        return self._batches.get(seq) or operation

    def _finish(self, seq: int, result: object) -> bool:
        """Take what came of an operation; return whether it is finished, else it is to be tried again."""
        match result:
            case Passed() | Stepped():
                self._end(seq, result)
            case StateExport():
                self._end(seq, None, StateResult(export=result))
            case StateResult():
                self._end(seq, result.result, result)
            case NotResident():
                return False
            case MintError():
                if result.retryable:
                    self.parking.note(result)
                    return False
                self._end(seq, result)
            case _:
                assert isinstance(result, BaseException), result
                self._term.policies.forget(self.policy_id)
                refusal = self.attempts.fault(seq, result)
                if refusal is None:
                    return False
                self._end(seq, refusal)
        return True

    def _end(self, seq: int, result: Result | MintError | None, kept: StateResult | None = None) -> None:
        """Give an executed operation its position and hand it on to be committed."""
        if isinstance(result, MintError) and (wave := rest_of_wave(self._live, seq)):
            self._refuse_wave(wave, result)
            return
        if isinstance(result, Opened | Loaded | Stepped):
            self._step = result.step
        executed = self._executed_as(seq, result, kept)
        if executed.closes:
            self.is_closed, self.is_leaving = True, False
            self._term.policies.forget(self.policy_id)  # also what a failed open had put into memory
        self._committer.put(executed)

    def _executed_as(
        self, seq: int, result: Result | MintError | None, kept: StateResult | None = None
    ) -> Executed:
        """Count an executed operation, and return it as it is to be committed."""
        operation = self._live[seq]
        self._position += 1
        if not isinstance(operation, StoredOperation) and changes_state(operation):
            self._snapshots.changed = self._position
        self.parking.end()
        return Executed(
            seq=seq,
            position=self._position,
            operation=operation,
            result=result,
            step=self._step,
            closes=closes(operation, result),
            state=kept.state if kept else None,
            export=kept.export if kept else None,
        )

    def _refuse_wave(self, seqs: Sequence[int], error: MintError) -> None:
        """Refuse the rest of a wave: a step needs its pass, and an export its step."""
        export = self._live[seqs[-1]]
        assert isinstance(export, WaveExport), export
        operations = [self._executed_as(seq, error) for seq in seqs]
        self._refused.update(seqs)
        self._turns.drop(seqs)
        self._committer.put(RefusedWave(operations=operations, export=export, error=error))

    def _forget(self, seq: int) -> None:
        """Note that an operation is committed."""
        del self._live[seq]
        self._batches.pop(seq, None)
        self._refused.discard(seq)
        self.attempts.end(seq)
        if not self._live:
            self._idle.set()
        self._wake()

    def _on_snapshot(self) -> None:
        if self._snapshots.is_covering and not self._under_way:
            # Its state is stored: it may leave memory until it is to change again.
            self._term.policies.release(self.policy_id)
        self._advance()
