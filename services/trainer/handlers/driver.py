"""One policy's operations, from their arrival to what is committed of them.

Invariants: operations are executed in the order that `core/sequence_buffer.py` releases, committed in that
order, and each once; what is committed was computed from everything committed before it; a fault of the
trainer itself costs a replay from the last snapshot, never a result.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Sequence

from mint_common.errors import MintError
from mint_common.training import (
    Close,
    Distill,
    Load,
    Loaded,
    Open,
    Opened,
    Pass,
    Passed,
    Result,
    SessionClosed,
    Step,
    Stepped,
)
from mint_common.waiting import wait_for_event
from services.trainer.core.batch import Batch
from services.trainer.core.operations import NotResident, TrainingSession
from services.trainer.core.sequence_buffer import SequenceBuffer
from services.trainer.core.wave_operations import LoadRevision, LoggedOperation, WaveExport, WavePass
from services.trainer.handlers.committer import Committer, Executed, RefusedWave, closes
from services.trainer.handlers.executor import Executor, StateResult, Work
from services.trainer.handlers.lease_term import LeaseTerm
from services.trainer.ports.policies import StateCopy, StateExport, StepTaken

_log = logging.getLogger(__name__)

_COMPUTED = (Pass, WavePass, Step)
_CHANGING = (*_COMPUTED, Distill, Open, Load, LoadRevision)
_ATTEMPTS = 2
"""How often a fault of the trainer is met before the operation is refused; retries run alone."""


def _begins_anew(operation: LoggedOperation) -> bool:
    """Return whether an operation needs nothing of what was before it."""
    return isinstance(operation, Open | Close) or (
        isinstance(operation, LoadRevision) and operation.revision is None
    )


class ExecutionFailed(MintError):
    """The operation could not be computed: {problem}"""

    code = "execution_failed"


class Driver:
    """Drives one policy while the term lasts, until its session is closed or has nothing to do for a while.

    ``is_ended`` says that it takes no more operations.
    """

    def __init__(self, term: LeaseTerm, session: TrainingSession, *, next_seq: int) -> None:
        self.policy_id = session.policy_id
        self.tenant_id = session.tenant_id
        self.is_managed = session.is_managed
        self.is_ended = False
        self._term = term
        self._committer = Committer(term, session, self._forget)
        self._executor = Executor(term, self._committer, self._settled)
        self._buffer = SequenceBuffer(next_seq=next_seq)
        self._live: dict[int, LoggedOperation | MintError] = {}
        self._batches: dict[int, Batch] = {}
        self._refused: set[int] = set()
        self._idle = asyncio.Event()
        self._news = asyncio.Event()
        self._again: list[int] = []
        self._attempts: dict[int, int] = {}
        self._position = session.position
        self._step = session.step
        self._changed = session.position
        self._is_closed = session.closed_at is not None
        self._snapshot_at = self._worked_at = term.clock.monotonic()
        self._is_copying = False
        self._executed: asyncio.Queue[Executed | RefusedWave | asyncio.Event] = asyncio.Queue()

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

    def arrive(self, seq: int, operation: LoggedOperation | MintError, *, batch: Batch | None = None) -> None:
        """Take over a stored operation, or why it cannot be read. A repetition changes nothing.

        ``batch`` is what the record of a wave's pass holds, where that has been read.
        """
        if seq not in self._live:
            if batch is not None:
                self._batches[seq] = batch
            self._idle.clear()
            self._live[seq] = operation
            self._buffer = self._buffer.arrive(seq, now=self._term.clock.monotonic())
            self._news.set()

    def skip(self, seq: int) -> None:
        """Wait for a number no longer: what was to have it was refused."""
        self._buffer = self._buffer.skip(seq)
        self._news.set()

    def held_by(self, seq: int) -> int | None:
        """Return the number that an operation waits for to arrive, if that is what it waits for."""
        return self._buffer.next_seq if seq in self._buffer.waiting and seq > self._buffer.next_seq else None

    async def run(self) -> None:
        """Execute and commit."""
        async with asyncio.TaskGroup() as group:
            committing = group.create_task(self._commit_on())
            while (due := await self._next()) is not None:
                await self._round(due)
                self._maybe_snapshot(group)
            await self._executed.join()
            committing.cancel()

    async def _next(self) -> list[int] | None:
        """Return the numbers that are due, none when it is time for a snapshot; None ends the driver."""
        clock, hold = self._term.clock, self._term.settings.hold_seconds
        while True:
            released, self._buffer = self._buffer.release(now=clock.monotonic(), hold_seconds=hold)
            due, self._again = [*self._again, *released], []
            if due or self._is_past(self._snapshot_due()):
                return due
            if self._is_past(self._end_due()):
                self.is_ended = True
                return None
            self._news.clear()
            moments = [self._buffer.due(hold_seconds=hold), self._snapshot_due(), self._end_due()]
            ends = [moment for moment in moments if moment is not None]
            if ends:
                await wait_for_event(self._news, clock=clock, seconds=min(ends) - clock.monotonic())
            else:
                await self._news.wait()

    def _is_past(self, moment: float | None) -> bool:
        return moment is not None and moment <= self._term.clock.monotonic()

    def _snapshot_due(self) -> float | None:
        is_covered = self._is_closed or self._is_copying or self._changed <= self._committer.covered
        if is_covered or not self._term.policies.has(self.policy_id):
            return None
        return self._snapshot_at + self._term.settings.snapshot_seconds

    def _end_due(self) -> float | None:
        """Return when the driver may end: at once when closed, else after idling.

        What is in memory goes into a snapshot before; what is not was committed, and is made again from that.
        """
        if self._live or self._is_copying:
            return None
        if self._is_closed:
            return self._worked_at
        if self._changed > self._committer.covered and self._term.policies.has(self.policy_id):
            return None
        return self._worked_at + self._term.settings.idle_seconds

    async def _round(self, seqs: Sequence[int]) -> None:
        """Execute what is due, as far as that goes without a fault."""
        waiting = list(seqs)
        while waiting := [seq for seq in waiting if seq not in self._refused]:
            self._worked_at = self._term.clock.monotonic()
            taken = self._take(waiting)
            done = await self._execute(taken)
            waiting = waiting[done:]
            if done < len(taken):
                self._again = waiting
                return

    def _take(self, waiting: Sequence[int]) -> Sequence[int]:
        """Return the operations that go together, or one alone.

        Passes and steps that follow one another do, and so does the export of a wave behind its step.
        """
        if waiting[0] in self._attempts:
            return waiting[:1]
        taken = list(itertools.takewhile(lambda seq: isinstance(self._live[seq], _COMPUTED), waiting))
        behind = waiting[len(taken) :]
        if taken and behind and isinstance(self._live[behind[0]], WaveExport):
            taken.append(behind[0])
        return taken or waiting[:1]

    async def _execute(self, seqs: Sequence[int]) -> int:
        """Return how many are finished; after a fault the others start again."""
        operation = self._live[seqs[0]]
        if self._is_closed:
            operation = SessionClosed(policy_id=self.policy_id)
        if isinstance(operation, MintError):
            self._end(seqs[0], operation)
            return 1
        if not _begins_anew(operation) and (lost := await self._executor.restore()):
            for seq in seqs:
                self._end(seq, lost)
            return len(seqs)
        if isinstance(operation, _COMPUTED):
            return await self._compute(seqs, alone=seqs[0] in self._attempts)
        return await self._keep(seqs[0], operation)

    async def _compute(self, seqs: Sequence[int], *, alone: bool) -> int:
        (begun,) = await asyncio.gather(self._begin(seqs, alone=alone), return_exceptions=True)
        if isinstance(begun, BaseException):
            return self._note_failure(seqs[0], begun)
        results = await asyncio.gather(*begun, return_exceptions=True)
        for done, (seq, result) in enumerate(zip(seqs, results, strict=True)):
            if seq in self._refused:
                continue
            if isinstance(result, NotResident):
                return done
            if isinstance(result, StepTaken):
                self._end(seq, Stepped(step=result.step, metrics=result.metrics))
            elif isinstance(result, StateExport):
                self._end(seq, None, StateResult(export=result))
            elif isinstance(result, Passed):
                self._end(seq, result)
            else:
                assert isinstance(result, BaseException), result
                ended = self._note_failure(seq, result)
                if not isinstance(result, MintError):
                    return done + ended
        return len(seqs)

    async def _begin(self, seqs: Sequence[int], *, alone: bool) -> list[Awaitable[object]]:
        """Queue operations that go together, once all that they take is there."""
        works: list[Work] = []
        for seq in seqs:
            operation = self._live[seq]
            assert not isinstance(operation, MintError), operation
            works.append(await self._executor.ready(operation, batch=self._batches.pop(seq, None)))
        if isinstance(works[-1], WaveExport):
            # What it comes after may be an export that is not committed yet.
            await self._settled()
        return [self._executor.begin(work, alone=alone) for work in works]

    async def _keep(self, seq: int, operation: LoggedOperation) -> int:
        """Execute an operation that saves, loads, distills or ends; return 1 when it is finished."""
        keeping = self._executor.keep(operation, alone=seq in self._attempts)
        (kept,) = await asyncio.gather(keeping, return_exceptions=True)
        if isinstance(kept, NotResident):
            return 0
        if isinstance(kept, StateResult):
            self._end(seq, kept.result, kept)
            return 1
        return self._note_failure(seq, kept)

    def _note_failure(self, seq: int, failure: BaseException) -> int:
        """Return 1 when the operation is finished, refused or given up, 0 when it is to be tried again."""
        if not isinstance(failure, MintError):
            return self._note_fault(seq, failure)
        self._end(seq, failure)
        return 1

    def _note_fault(self, seq: int, fault: BaseException) -> int:
        """Return 1 when the operation is given up, 0 when it is to be tried again."""
        if isinstance(fault, asyncio.CancelledError):
            raise fault
        self._term.policies.forget(self.policy_id)
        self._attempts[seq] = self._attempts.get(seq, 0) + 1
        _log.error(
            "operation failed",
            extra={"policy_id": self.policy_id, "seq": seq, "attempt": self._attempts[seq]},
            exc_info=fault,
        )
        if self._attempts[seq] < _ATTEMPTS:
            return 0
        self._end(seq, ExecutionFailed(problem=f"{type(fault).__name__}: {fault}"[:500]))
        return 1

    def _end(self, seq: int, result: Result | MintError | None, kept: StateResult | None = None) -> None:
        """Give an executed operation its position and hand it on to be committed."""
        if isinstance(result, MintError):
            if result.retryable:
                raise result  # the world's fault, not the operation's: the term begins again
            if wave := self._rest_of_wave(seq):
                self._refuse_wave(wave, result)
                return
        if isinstance(result, Opened | Loaded | Stepped):
            self._step = result.step
        executed = self._executed_as(seq, result, kept)
        if executed.closes:
            self._is_closed = True
            self._term.policies.forget(self.policy_id)  # also what a failed open had put into memory
        self._executed.put_nowait(executed)

    def _executed_as(
        self, seq: int, result: Result | MintError | None, kept: StateResult | None = None
    ) -> Executed:
        """Count an executed operation, and return it as it is to be committed."""
        operation = self._live[seq]
        self._position += 1
        if isinstance(operation, _CHANGING):
            self._changed = self._position
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

    def _rest_of_wave(self, seq: int) -> list[int]:
        """Return an operation of a wave and those of it that come behind, none for a client's operation."""
        behind = sorted(one for one in self._live if one >= seq)
        rest = list(itertools.takewhile(lambda one: not isinstance(self._live[one], WaveExport), behind))
        return behind[: len(rest) + 1] if len(rest) < len(behind) else []

    def _refuse_wave(self, seqs: Sequence[int], error: MintError) -> None:
        """Refuse what is left of a wave: a step without its pass, an export without its step mean nothing."""
        export = self._live[seqs[-1]]
        assert isinstance(export, WaveExport), export
        operations = [self._executed_as(seq, error) for seq in seqs]
        self._refused.update(seqs)
        self._executed.put_nowait(RefusedWave(operations=operations, export=export, error=error))

    def _forget(self, seq: int) -> None:
        """Note that an operation is committed."""
        del self._live[seq]
        self._batches.pop(seq, None)
        self._refused.discard(seq)
        if not self._live:
            self._idle.set()
        self._news.set()

    async def _commit_on(self) -> None:
        while True:
            taken = [await self._executed.get()]
            while not self._executed.empty():
                taken.append(self._executed.get_nowait())
            await self._commit(taken)
            for _ in taken:
                self._executed.task_done()

    async def _commit(self, taken: Sequence[Executed | RefusedWave | asyncio.Event]) -> None:
        executed: list[Executed | RefusedWave] = []
        for one in taken:
            if isinstance(one, asyncio.Event):
                await self._committer.commit(executed)
                executed = []
                one.set()
            else:
                executed.append(one)
        await self._committer.commit(executed)

    async def _settled(self) -> None:
        """Wait until everything that was executed is committed."""
        event = asyncio.Event()
        self._executed.put_nowait(event)
        await event.wait()

    def _maybe_snapshot(self, group: asyncio.TaskGroup) -> None:
        """Begin a snapshot if one is due; training goes on beside it."""
        if not self._is_past(self._snapshot_due()):
            return
        self._is_copying = True
        self._snapshot_at = self._term.clock.monotonic()
        settled = asyncio.Event()
        self._executed.put_nowait(settled)
        group.create_task(self._snapshot(self._position, self._executor.copy(with_gradient=True), settled))

    async def _snapshot(self, position: int, copy: Awaitable[StateCopy], settled: asyncio.Event) -> None:
        (state,) = await asyncio.gather(copy, return_exceptions=True)
        if isinstance(state, StateCopy):
            await settled.wait()
            await self._committer.snapshot(position, state)
        elif not isinstance(state, MintError):
            _log.error("snapshot failed", extra={"policy_id": self.policy_id}, exc_info=state)
        self._is_copying = False
        if self._changed <= self._committer.covered:
            # Its state is stored: it may leave memory until it is to change again.
            self._term.policies.release(self.policy_id)
        self._news.set()
