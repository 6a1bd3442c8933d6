"""One policy's operations, from their arrival to their results.

What can be computed goes to the scheduler as it arrives, behind what is under way; anything else has the
policy to itself. Invariants: operations are executed in the order that `core/sequence_buffer.py` releases,
committed in that order, and each once; what is committed was computed from everything committed before it; a
fault of the trainer itself costs a replay from the last snapshot, never a result.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from types import MappingProxyType

from mint_common.claims import Claim
from mint_common.errors import MintError
from mint_common.training import (
    Loaded,
    Opened,
    Pass,
    Passed,
    Result,
    SessionClosed,
    Step,
    Stepped,
)
from mint_common.waiting import wait_for_event
from services.trainer.core.algorithms import WaveBatch
from services.trainer.core.batch import Batch
from services.trainer.core.operations import ExecutionFailed, NotResident, TrainingSession
from services.trainer.core.sequence_buffer import SequenceBuffer
from services.trainer.core.wave_operations import (
    LoggedOperation,
    WaveExport,
    WavePass,
    begins_anew,
    changes_state,
    rest_of_wave,
)
from services.trainer.handlers.commit_queue import CommitQueue
from services.trainer.handlers.committer import Committer, Executed, RefusedWave, closes
from services.trainer.handlers.executor import Executor, StateResult, with_batch
from services.trainer.handlers.lease_term import LeaseTerm
from services.trainer.handlers.snapshots import Snapshots
from services.trainer.ports.policies import StateExport

_log = logging.getLogger(__name__)

_ATTEMPTS = 2
"""How often a fault of the trainer is met before the operation is refused; retries run alone."""


class Driver:
    """Drives one policy while the term lasts, until its session is closed or has nothing to do for a while.

    ``is_ended`` says that it takes no more operations. Its tasks belong to ``group``.
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
        self._term = term
        self._group = group
        self._commits = commits
        self._committer = Committer(
            term, session, collect=self._collect, on_waiting=commits.put, on_committed=self._forget
        )
        self._executor = Executor(term, self._committer, self._settled)
        self._buffer = SequenceBuffer(next_seq=session.next_seq)
        self._live: dict[int, LoggedOperation | MintError] = {}
        self._batches: dict[int, WaveBatch] = {}
        self._refused: set[int] = set()
        self._attempts: dict[int, int] = {}
        self._due: deque[int] = deque()
        self._under_way: deque[tuple[int, asyncio.Future[tuple[object]]]] = deque()
        self._is_void = False
        self._again: list[int] = []
        self._is_working = False
        self._idle = asyncio.Event()
        self._news = asyncio.Event()
        self._sleeps_until: float | None = None
        self._position = session.position
        self._step = session.step
        self._is_closed = session.closed_at is not None
        self._worked_at = term.clock.monotonic()
        self._snapshots = Snapshots(term, self._committer, self._executor, group, on_done=self._on_snapshot)

    @property
    def waiting(self) -> int:
        """Return how many operations wait or are under way here."""
        return len(self._live)

    def knows(self, seq: int) -> bool:
        """Return whether an operation waits or is under way here."""
        return seq in self._live

    async def wait_until_idle(self, *, seconds: float) -> None:
        """Wait until all that arrived is committed, but not longer."""
        if self._live:
            await wait_for_event(self._idle, clock=self._term.clock, seconds=seconds)

    def arrive(
        self,
        operations: Iterable[tuple[int, LoggedOperation | MintError]],
        records: Mapping[Claim, Batch] = MappingProxyType({}),
    ) -> None:
        """Take over stored operations, or why they cannot be read. A repetition changes nothing.

        ``records`` is what the records of their wave's passes hold, where those have been read.
        """
        for seq, operation in operations:
            if seq in self._live:
                continue
            if isinstance(operation, WavePass) and operation.record in records:
                self._batches[seq] = with_batch(operation, records[operation.record])
            self._idle.clear()
            self._live[seq] = operation
            self._committer.note_trace(seq)
            self._buffer = self._buffer.arrive(seq, now=self._term.clock.monotonic())
        self._advance()

    def skip(self, seq: int) -> None:
        """Wait for a number no longer: what was to have it was refused."""
        self._buffer = self._buffer.skip(seq)
        self._advance()

    def held_by(self, seq: int) -> int | None:
        """Return the number that an operation waits for to arrive, if that is what it waits for."""
        return self._buffer.next_seq if seq in self._buffer.waiting and seq > self._buffer.next_seq else None

    def cover(self) -> None:
        """See to it that a snapshot comes to cover all that was executed, also when nothing more arrives."""
        is_busy = bool(self._live) or self._is_working or self._term.policies.has(self.policy_id)
        if not (is_busy or self._is_closed or self._snapshots.is_covering):
            self._is_working = True
            self._group.create_task(self._restore())

    async def _restore(self) -> None:
        await self._executor.restore()
        self._is_working = False
        self._advance()

    async def run(self) -> None:
        """Do what becomes due with time, until there is nothing left to do."""
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
        clock, hold = self._term.clock, self._term.settings.hold_seconds
        if self._buffer.waiting:
            released, self._buffer = self._buffer.release(now=clock.monotonic(), hold_seconds=hold)
            self._due.extend(released)
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
        moments = [self._buffer.due(hold_seconds=self._term.settings.hold_seconds), self._end_due()]
        if self._is_at_rest:
            moments.append(self._snapshot_due)
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def _is_at_rest(self) -> bool:
        return not (self._under_way or self._is_working)

    @property
    def _snapshot_due(self) -> float | None:
        return None if self._is_closed else self._snapshots.due

    def _is_past(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._term.clock.monotonic()

    def _end_due(self) -> float | None:
        """Return when the driver may end: at once when closed, else after idling.

        What is in memory goes into a snapshot before; what is not was committed, and is made again from that.
        """
        if self._live or self._snapshots.is_copying or self._is_working:
            return None
        if self._is_closed:
            return self._worked_at
        if not self._snapshots.is_covering and self._term.policies.has(self.policy_id):
            return None
        return self._worked_at + self._term.settings.idle_seconds

    def _begin_due(self) -> None:
        while self._due and not (self._is_working or self._is_void):
            if self._can_compute(self._due[0]):
                self._compute(self._due.popleft())
            elif self._under_way:
                return
            else:
                self._is_working = True
                self._group.create_task(self._work(self._due.popleft()))

    def _can_compute(self, seq: int) -> bool:
        """Return whether an operation can go to the scheduler behind what is under way; retries go alone."""
        is_alone = self._under_way and (seq in self._attempts or self._under_way[0][0] in self._attempts)
        if self._is_closed or not self._term.policies.has(self.policy_id) or is_alone:
            return False
        match self._live[seq]:
            case Pass() | Step():
                return True
            case WavePass():
                return seq in self._batches
            case WaveExport():
                # What it comes after may be an export that is not committed yet.
                return bool(self._under_way) and self._committer.committed == self._position
            case _:
                return False

    def _compute(self, seq: int) -> None:
        work = self._batches.pop(seq, None) or self._live[seq]
        assert not isinstance(work, MintError), work
        self._worked_at = self._term.clock.monotonic()
        self._term.policies.keep(self.policy_id)
        # Gathered: an error is a result, also a cancellation, and also when the term ends before it is taken.
        work_done = self._executor.begin(work, alone=seq in self._attempts)
        begun: asyncio.Future[tuple[object]] = asyncio.gather(work_done, return_exceptions=True)
        self._under_way.append((seq, begun))
        begun.add_done_callback(lambda _: self._commits.put(self._committer))

    def _collect(self) -> None:
        """Take the results that are there of what is under way, in order; behind a fault they are void."""
        while self._under_way and self._under_way[0][1].done():
            seq, begun = self._under_way.popleft()
            if seq in self._live and seq not in self._refused:
                self._take(seq, begun.result()[0])
            if not self._under_way:
                self._due.extendleft(reversed(self._again))
                self._is_void, self._again = False, []
            self._advance()

    def _take(self, seq: int, result: object) -> None:
        if self._is_void or isinstance(result, NotResident):
            self._is_void = True
            self._again.append(seq)
        elif isinstance(result, Passed | Stepped):
            self._end(seq, result)
        elif isinstance(result, StateExport):
            self._end(seq, None, StateResult(export=result))
        else:
            assert isinstance(result, BaseException), result
            self._is_void = not isinstance(result, MintError)
            if not self._note_failure(seq, result):
                self._again.append(seq)

    async def _work(self, seq: int) -> None:
        """Do what has the policy to itself, until an operation is finished or can be computed."""
        self._worked_at = self._term.clock.monotonic()
        operation = SessionClosed(policy_id=self.policy_id) if self._is_closed else self._live[seq]
        is_finished = await self._work_on(seq, operation)
        if not is_finished:
            self._due.appendleft(seq)
        self._is_working = False
        self._advance()

    async def _work_on(self, seq: int, operation: LoggedOperation | MintError) -> bool:
        if isinstance(operation, MintError):
            self._end(seq, operation)
            return True
        if not begins_anew(operation) and (lost := await self._executor.restore()):
            self._end(seq, lost)
            return True
        if isinstance(operation, Pass | Step) or seq in self._batches:
            return False
        if isinstance(operation, WavePass):
            doing: Awaitable[object] = self._executor.ready(operation)
        else:
            doing = self._executor.keep(operation, alone=seq in self._attempts)
        (done,) = await asyncio.gather(doing, return_exceptions=True)
        if isinstance(done, StateResult):
            self._end(seq, done.result, done)
            return True
        if isinstance(done, WaveBatch):
            self._batches[seq] = done
        elif not isinstance(done, NotResident):
            assert isinstance(done, BaseException), done
            return self._note_failure(seq, done)
        return False

    def _note_failure(self, seq: int, failure: BaseException) -> bool:
        """Return whether the operation is finished, refused or given up: else it is to be tried again."""
        if not isinstance(failure, MintError):
            return self._note_fault(seq, failure)
        self._end(seq, failure)
        return True

    def _note_fault(self, seq: int, fault: BaseException) -> bool:
        self._term.policies.forget(self.policy_id)
        self._attempts[seq] = self._attempts.get(seq, 0) + 1
        _log.error(
            "operation failed",
            extra={"policy_id": self.policy_id, "seq": seq, "attempt": self._attempts[seq]},
            exc_info=fault,
        )
        if self._attempts[seq] < _ATTEMPTS:
            return False
        self._end(seq, ExecutionFailed(problem=f"{type(fault).__name__}: {fault}"[:500]))
        return True

    def _end(self, seq: int, result: Result | MintError | None, kept: StateResult | None = None) -> None:
        """Give an executed operation its position and hand it on to be committed."""
        if isinstance(result, MintError):
            if result.retryable:
                raise result  # the world's fault, not the operation's: the term begins again
            if wave := rest_of_wave(self._live, seq):
                self._refuse_wave(wave, result)
                return
        if isinstance(result, Opened | Loaded | Stepped):
            self._step = result.step
        executed = self._executed_as(seq, result, kept)
        if executed.closes:
            self._is_closed = True
            self._term.policies.forget(self.policy_id)  # also what a failed open had put into memory
        self._committer.put(executed)

    def _executed_as(
        self, seq: int, result: Result | MintError | None, kept: StateResult | None = None
    ) -> Executed:
        """Count an executed operation, and return it as it is to be committed."""
        operation = self._live[seq]
        self._position += 1
        if not isinstance(operation, MintError) and changes_state(operation):
            self._snapshots.changed = self._position
        self._attempts.pop(seq, None)
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
        """Refuse what is left of a wave: a step without its pass, an export without its step mean nothing."""
        export = self._live[seqs[-1]]
        assert isinstance(export, WaveExport), export
        operations = [self._executed_as(seq, error) for seq in seqs]
        self._refused.update(seqs)
        self._due = deque(seq for seq in self._due if seq not in self._refused)
        self._committer.put(RefusedWave(operations=operations, export=export, error=error))

    def _forget(self, seq: int) -> None:
        """Note that an operation is committed."""
        del self._live[seq]
        self._batches.pop(seq, None)
        self._refused.discard(seq)
        if not self._live:
            self._idle.set()
        self._wake()

    async def _settled(self) -> None:
        """Wait until everything that was executed is committed."""
        await self._committer.settled(self._position)

    def _on_snapshot(self) -> None:
        if self._snapshots.is_covering and not self._under_way:
            # Its state is stored: it may leave memory until it is to change again.
            self._term.policies.release(self.policy_id)
        self._advance()
