"""One policy's operations, from their arrival to what is committed of them.

Invariants: operations are executed in the order that `core/sequence_buffer.py` releases, committed in that
order, and each once; what is committed was computed from everything committed before it; a fault of the
trainer itself costs a replay from the last snapshot, never a result.
"""

import asyncio
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
    Operation,
    Pass,
    Result,
    SessionClosed,
    Step,
    Stepped,
)
from mint_common.waiting import wait_for_event
from services.trainer.core.operations import NotResident, TrainingSession
from services.trainer.core.sequence_buffer import SequenceBuffer
from services.trainer.handlers.committer import Committer, Executed, closes
from services.trainer.handlers.executor import Executor, StateResult
from services.trainer.handlers.lease_term import LeaseTerm
from services.trainer.ports.policies import StateCopy, StepTaken

_log = logging.getLogger(__name__)

_ATTEMPTS = 2
"""How often a fault of the trainer is met before the operation is refused; retries run alone."""


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
        self.is_ended = False
        self._term = term
        self._committer = Committer(term, session, self._forget)
        self._executor = Executor(term, self._committer, self._settled)
        self._buffer = SequenceBuffer(next_seq=next_seq)
        self._live: dict[int, Operation | MintError] = {}
        self._news = asyncio.Event()
        self._again: list[int] = []
        self._attempts: dict[int, int] = {}
        self._position = session.position
        self._step = session.step
        self._changed = session.position
        self._is_closed = session.closed_at is not None
        self._snapshot_at = self._worked_at = term.clock.monotonic()
        self._is_copying = False
        self._executed: asyncio.Queue[Executed | asyncio.Event] = asyncio.Queue()

    @property
    def waiting(self) -> int:
        """Return how many operations wait or are under way here."""
        return len(self._live)

    def knows(self, seq: int) -> bool:
        """Return whether an operation waits or is under way here."""
        return seq in self._live

    def arrive(self, seq: int, operation: Operation | MintError) -> None:
        """Take over a stored operation, or why it cannot be read. A repetition changes nothing."""
        if seq not in self._live:
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
        while waiting:
            self._worked_at = self._term.clock.monotonic()
            taken = self._take(waiting)
            done = await self._execute(taken)
            waiting = waiting[done:]
            if done < len(taken):
                self._again = waiting
                return

    def _take(self, waiting: Sequence[int]) -> Sequence[int]:
        """Return the operations that go together: passes and steps that follow one another, or one alone."""
        computed = 0
        while computed < len(waiting) and isinstance(self._live[waiting[computed]], Pass | Step):
            computed += 1
        return waiting[: 1 if waiting[0] in self._attempts else max(1, computed)]

    async def _execute(self, seqs: Sequence[int]) -> int:
        """Return how many are finished; after a fault the others start again."""
        operation = self._live[seqs[0]]
        if self._is_closed:
            operation = SessionClosed(policy_id=self.policy_id)
        if isinstance(operation, MintError):
            self._end(seqs[0], operation)
            return 1
        if not isinstance(operation, Open | Close) and (lost := await self._executor.restore()):
            for seq in seqs:
                self._end(seq, lost)
            return len(seqs)
        if isinstance(operation, Pass | Step):
            return await self._compute(seqs, alone=seqs[0] in self._attempts)
        return await self._keep(seqs[0], operation)

    async def _compute(self, seqs: Sequence[int], *, alone: bool) -> int:
        operations = [self._live[seq] for seq in seqs]
        begun = [self._executor.begin(one, alone=alone) for one in operations if isinstance(one, Pass | Step)]
        results = await asyncio.gather(*begun, return_exceptions=True)
        for done, (seq, result) in enumerate(zip(seqs, results, strict=True)):
            if isinstance(result, NotResident):
                return done
            if isinstance(result, BaseException) and not isinstance(result, MintError):
                return done + self._note_fault(seq, result)
            if isinstance(result, StepTaken):
                self._end(seq, Stepped(step=result.step, metrics=result.metrics))
            else:
                self._end(seq, result)
        return len(seqs)

    async def _keep(self, seq: int, operation: Operation) -> int:
        """Execute an operation that saves, loads, distills or ends; return 1 when it is finished."""
        keeping = self._executor.keep(operation, alone=seq in self._attempts)
        (kept,) = await asyncio.gather(keeping, return_exceptions=True)
        if isinstance(kept, NotResident):
            return 0
        if isinstance(kept, StateResult):
            self._end(seq, kept.result, kept)
        elif isinstance(kept, MintError):
            self._end(seq, kept)
        else:
            return self._note_fault(seq, kept)
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
        if isinstance(result, MintError) and result.retryable:
            raise result  # the world's fault, not the operation's: the term begins again
        self._position += 1
        operation = self._live[seq]
        if isinstance(result, Opened | Loaded | Stepped):
            self._step = result.step
        if isinstance(operation, Pass | Distill | Step | Open | Load):
            self._changed = self._position
        if closes(operation, result):
            self._is_closed = True
            self._term.policies.forget(self.policy_id)  # also what a failed open had put into memory
        self._attempts.pop(seq, None)
        self._executed.put_nowait(
            Executed(
                seq=seq,
                position=self._position,
                operation=operation,
                result=result,
                step=self._step,
                closes=closes(operation, result),
                state=kept.state if kept else None,
                export=kept.export if kept else None,
            )
        )

    def _forget(self, seq: int) -> None:
        """Note that an operation is committed."""
        del self._live[seq]
        self._news.set()

    async def _commit_on(self) -> None:
        while True:
            taken = [await self._executed.get()]
            while not self._executed.empty():
                taken.append(self._executed.get_nowait())
            await self._commit(taken)
            for _ in taken:
                self._executed.task_done()

    async def _commit(self, taken: Sequence[Executed | asyncio.Event]) -> None:
        executed: list[Executed] = []
        for one in taken:
            if isinstance(one, Executed):
                executed.append(one)
            else:
                await self._committer.commit(executed)
                executed = []
                one.set()
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
