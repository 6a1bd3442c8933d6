"""Attempts of a policy's operations without an end: in this process, and in killed ones.

Invariants: an operation that may have killed a process is counted in its row before it is read or its policy
restored, and before it is computed (`core/attempts.py`), and only while that runs: waiting is not running.
This process's counts outlive the term, whose end does not end the process. An operation that faulted once, or
was counted when a process died, is done alone: one such operation of all policies at a time, so that a count
blames no other of them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from services.trainer.core.attempts import MAX_ATTEMPTS, MAX_READS, is_large
from services.trainer.core.operations import ExecutionFailed, StoredOperation
from services.trainer.core.ranks import RankLost
from services.trainer.handlers.lease_term import LeaseTerm, OperationParts

_log = logging.getLogger(__name__)

T = TypeVar("T")


async def forget_attempts(parts: OperationParts) -> None:
    """Record that this process's operations did not end it. Raises Unavailable: call it again."""
    if noted := list(parts.noted):
        await parts.store.take_back_attempts(noted)
        parts.noted.difference_update(noted)


class Attempts:
    """The attempts at a policy's operations."""

    def __init__(self, term: LeaseTerm, policy_id: PolicyId) -> None:
        self._term = term
        self._policy_id = policy_id
        self._counts: dict[int, int] = {}
        self._reads: dict[int, int] = {}
        self._found: set[int] = set()

    def found(self, stored: StoredOperation) -> None:
        """Take over the counts of an operation that waited when the term began."""
        self._found.add(stored.seq)
        reads = stored.reads - ((self._policy_id, stored.seq) in self._term.reading)
        if stored.attempts or reads > 0:
            self._counts[stored.seq] = stored.attempts
            self._reads[stored.seq] = reads

    def check(self, seq: int) -> None:
        """Raise ExecutionFailed for an operation that is not to be begun again.

        Its policy is made again from the log: a step that is refused clears the gradient there.
        """
        ended = ""
        if self._counts.get(seq, 0) >= MAX_ATTEMPTS:
            ended = f"{MAX_ATTEMPTS} times while it was computed"
        elif self._reads.get(seq, 0) >= MAX_READS:
            ended = f"{MAX_READS} times while it was read, or its policy restored"
        if ended:
            self._term.policies.forget(self._policy_id)
            raise ExecutionFailed(problem=f"the trainer ended {ended}")

    def is_apart(self, seq: int) -> bool:
        """Return whether an operation is to be done apart."""
        return seq in self._counts

    def is_due(self, seq: int, work: object) -> bool:
        """Return whether an attempt has to be noted before work on an operation begins."""
        return (self._policy_id, seq) not in self._term.noted and (seq in self._found or is_large(work))

    @asynccontextmanager
    async def reading(self, seq: int, operation: object) -> AsyncIterator[None]:
        """Count a read of an operation and a restore of its policy until they end, unless the ranks are lost.

        A small operation that has just arrived is not counted, nor one that needs no read and no restore.
        """
        one, reading = (self._policy_id, seq), self._term.reading
        is_unread = isinstance(operation, StoredOperation)
        is_counted = is_unread or (seq in self._found and not self._term.policies.has(self._policy_id))
        if is_counted and one not in reading:
            await self._term.store.begin_read(*one)
            reading.add(one)
        try:
            yield
        except RankLost:
            is_counted = False
            raise
        finally:
            if is_counted:
                with suppress(MintError):
                    await self._term.store.end_read(*one)
                    reading.discard(one)
            self._reads.pop(seq, None)

    async def note_due(self, seq: int, work: object) -> None:
        """Note an attempt if that is due. Raises Fenced, Unavailable."""
        if self.is_due(seq, work):
            await self.note(seq)

    async def note(self, seq: int) -> None:
        """Note an attempt in the operation's row. Raises Fenced, Unavailable."""
        one = (self._policy_id, seq)
        if one not in self._term.noted:
            await self._term.store.count_attempts(self._term.holder, [one])
            self._term.noted.add(one)

    async def noted(self, seq: int, work: Callable[[], Awaitable[T]]) -> T:
        """Do something noted until it has ended, well or not.

        So it is not blamed when the process dies of another operation, before its result is committed.
        """
        await self.note(seq)
        (done,) = await asyncio.gather(work(), return_exceptions=True)
        await self.take_back(seq, done)
        if isinstance(done, BaseException):
            raise done
        return done

    async def take_back(self, seq: int, result: object) -> None:
        """Note that an attempt has not ended the process, unless its result is that the ranks are lost."""
        one = (self._policy_id, seq)
        if one in self._term.noted and not isinstance(result, RankLost):
            # A result is not lost for an outage here; see `forget_attempts`.
            with suppress(MintError):
                await self._term.store.take_back_attempts([one])
                self._term.noted.discard(one)

    def fault(self, seq: int, fault: BaseException) -> ExecutionFailed | None:
        """Count a fault of this process; return why the operation is refused, None: it is tried again."""
        count = self._counts[seq] = self._counts.get(seq, 0) + 1
        facts = {"policy_id": self._policy_id, "seq": seq, "attempt": count}
        _log.error("operation failed", extra=facts, exc_info=fault)
        if count < MAX_ATTEMPTS:
            return None
        return ExecutionFailed(problem=f"{type(fault).__name__}: {fault}"[:500])

    def end(self, seq: int) -> None:
        """Forget an operation that is committed."""
        self._counts.pop(seq, None)
        self._reads.pop(seq, None)
        self._found.discard(seq)
        self._term.noted.discard((self._policy_id, seq))
