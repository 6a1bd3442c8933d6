"""The next operation of one policy: in the order of `core/sequence_buffer.py`, retries first."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from mint_common.runtime.clock import Clock
from services.trainer.core.sequence_buffer import SequenceBuffer


class Turns:
    """Operations that wait, by number. It is true while one of them may begin."""

    def __init__(self, clock: Clock, next_seq: int, *, hold_seconds: float) -> None:
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._buffer = SequenceBuffer(next_seq=next_seq)
        self._due: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def first(self) -> int:
        """Return the next one."""
        return self._due[0]

    @property
    def release_at(self) -> float | None:
        """Return when operations after a gap may begin, None if none wait."""
        return self._buffer.due(hold_seconds=self._hold_seconds)

    def arrive(self, seq: int) -> None:
        """Add an operation."""
        self._buffer = self._buffer.arrive(seq, now=self._clock.monotonic())

    def skip(self, seq: int) -> None:
        """Wait for a number no longer."""
        self._buffer = self._buffer.skip(seq)

    def held_by(self, seq: int) -> int | None:
        """Return the missing number that an operation waits for, if any."""
        return self._buffer.next_seq if seq in self._buffer.waiting and seq > self._buffer.next_seq else None

    def release(self) -> Sequence[int]:
        """Release the operations that nothing delays any longer; return them."""
        if not self._buffer.waiting:
            return ()
        now = self._clock.monotonic()
        released, self._buffer = self._buffer.release(now=now, hold_seconds=self._hold_seconds)
        self._due.extend(released)
        return released

    def take(self) -> int:
        """Take the next one out."""
        return self._due.popleft()

    def put_back(self, *seqs: int) -> None:
        """Let operations be next, in this order, wherever they are now."""
        self.drop(seqs)
        self._due.extendleft(reversed(seqs))

    def bring_forward(self, goes_first: Callable[[int], bool], released: Sequence[int]) -> bool:
        """Move an operation that depends on no other to the front; return whether that changes the next one.

        If such an operation is next already, only one that was just ``released`` replaces it.
        """
        behind = released if self._due and goes_first(self._due[0]) else self._due
        found = [seq for seq in behind if goes_first(seq)]
        self.put_back(*found[-1:])
        return bool(found)

    def drop(self, seqs: Collection[int]) -> None:
        """Take operations out."""
        if not set(self._due).isdisjoint(seqs):
            self._due = deque(seq for seq in self._due if seq not in seqs)
