"""How often a policy's operations were begun without an end: in this process, and in those that were killed.

Invariants: what a killed process may have died of is in its row before it is computed (`core/attempts.py`);
what faulted once, or was noted when a process died, is computed apart: one such operation of all policies at
a time, so that a count blames nobody else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from mint_common.errors import MintError
from mint_common.ids import PolicyId
from services.trainer.core.attempts import MOST_ATTEMPTS, is_large
from services.trainer.core.operations import ExecutionFailed, StoredOperation
from services.trainer.handlers.lease_term import LeaseTerm

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Attempts:
    """The attempts at a policy's operations."""

    def __init__(self, term: LeaseTerm, policy_id: PolicyId) -> None:
        self.noted: set[int] = set()
        """The unfinished operations whose row counts an attempt of this process."""
        self._term = term
        self._policy_id = policy_id
        self._counts: dict[int, int] = {}
        self._found: set[int] = set()

    def found(self, stored: StoredOperation) -> None:
        """Take over the count of an operation that waited when the term began."""
        self._found.add(stored.seq)
        if stored.attempts:
            self._counts[stored.seq] = stored.attempts

    def check(self, seq: int) -> None:
        """Raise ExecutionFailed for an operation that is not to be begun again."""
        if self._counts.get(seq, 0) >= MOST_ATTEMPTS:
            raise ExecutionFailed(problem=f"the trainer ended {MOST_ATTEMPTS} times while it was computed")

    def is_apart(self, seq: int) -> bool:
        """Return whether an operation is to be computed apart."""
        return seq in self._counts

    def is_due(self, seq: int, work: object) -> bool:
        """Return whether an attempt has to be noted before work on an operation begins."""
        return seq not in self.noted and (seq in self._found or is_large(work))

    async def note(self, seq: int) -> None:
        """Note an attempt in the operation's row. Raises Fenced, Unavailable."""
        if seq not in self.noted:
            await self._term.store.count_attempts(self._term.token, [(self._policy_id, seq)], more=1)
            self.noted.add(seq)

    async def apart(self, seq: int, work: Callable[[], Awaitable[T]]) -> T:
        """Do something apart, and noted until it has ended, well or not.

        So it is not blamed when the process dies of another operation, before its result is committed. What
        may be tried again stays noted: the ranks may be lost.
        """
        async with self._term.apart:
            await self.note(seq)
            (done,) = await asyncio.gather(work(), return_exceptions=True)
            if not (isinstance(done, MintError) and done.retryable):
                await self._take_back(seq)
        if isinstance(done, BaseException):
            raise done
        return done

    async def _take_back(self, seq: int) -> None:
        self.noted.discard(seq)
        with suppress(MintError):  # what the work has given must not be lost for that
            await self._term.store.count_attempts(self._term.token, [(self._policy_id, seq)], more=-1)

    def fault(self, seq: int, fault: BaseException) -> ExecutionFailed | None:
        """Count a fault of this process; return why the operation is refused, None: it is tried again."""
        count = self._counts[seq] = self._counts.get(seq, 0) + 1
        facts = {"policy_id": self._policy_id, "seq": seq, "attempt": count}
        _log.error("operation failed", extra=facts, exc_info=fault)
        if count < MOST_ATTEMPTS:
            return None
        return ExecutionFailed(problem=f"{type(fault).__name__}: {fault}"[:500])

    def end(self, seq: int) -> None:
        """Forget an operation that is committed."""
        self._counts.pop(seq, None)
        self._found.discard(seq)
        self.noted.discard(seq)
