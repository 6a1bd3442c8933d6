"""The order of one policy's operations: by number, with gaps delayed for a bounded time.

A buffer is a value. Invariants (tests/unit/trainer/test_sequence_buffer.py):
- Every operation that arrives is released once; without gaps in the order of numbers, for any order of
  arrival.
- Nothing waits longer than the hold for a missing number, nor for a skipped one, which was refused.
- The last number waits only for what has arrived. So does an operation that its client did not
  number: it follows what had arrived before it.
- An operation that arrives after its gap was released is released at once: of one client's operations only
  parts of one forward and backward pass can overtake each other, and their gradients add up in any order.
"""

from dataclasses import dataclass, field, replace

from mint_common.training import LAST_SEQ, UNNUMBERED

MAX_SKIPPED = 1000
"""Maximum skipped numbers that are remembered; an older one is held back like any other gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceBuffer:
    """``next_seq`` is the next number; ``waiting`` maps later numbers to their time of arrival.

    ``skipped`` are later numbers that will not arrive. ``behind`` has, for operations without a client's
    number, the last number that had arrived before them.
    """

    next_seq: int = 0
    waiting: dict[int, float] = field(default_factory=dict)
    skipped: frozenset[int] = frozenset()
    behind: dict[int, int] = field(default_factory=dict)

    def arrive(self, seq: int, *, now: float) -> "SequenceBuffer":
        """Return the buffer with one more operation, which may be early or late."""
        behind = self.behind
        if seq >= UNNUMBERED:
            numbered = (one for one in self.waiting if one < UNNUMBERED)
            behind = {**behind, seq: max(numbered, default=self.next_seq - 1)}
        return replace(self, waiting={**self.waiting, seq: now}, behind=behind)

    def skip(self, seq: int) -> "SequenceBuffer":
        """Return the buffer that waits no longer for a number; if it arrives, it is released in order."""
        if seq < self.next_seq or seq in self.waiting or len(self.skipped) >= MAX_SKIPPED:
            return self
        skipped = self.skipped | {seq}
        return _settled(self.next_seq, self.waiting, skipped, self.behind)

    def release(self, *, now: float, hold_seconds: float) -> "tuple[list[int], SequenceBuffer]":
        """Return the numbers that may be executed now, in order, and the buffer without them."""
        waiting = dict(self.waiting)
        next_seq = self.next_seq
        released = []
        # What has no number of its own follows in the order in which it came.
        for seq in sorted(waiting, key=lambda seq: (self.behind.get(seq, seq), seq >= UNNUMBERED)):
            is_held = next_seq < seq < LAST_SEQ
            if is_held and now < self._due(waiting, hold_seconds):
                break
            released.append(seq)
            del waiting[seq]
            if seq < UNNUMBERED:
                next_seq = _after(max(next_seq, seq + 1), self.skipped)
        behind = {seq: number for seq, number in self.behind.items() if seq in waiting}
        return released, _settled(next_seq, waiting, self.skipped, behind)

    def due(self, *, hold_seconds: float) -> float | None:
        """Return when the gap that holds the buffer up is released, None if nothing waits."""
        return self._due(self.waiting, hold_seconds) if self.waiting else None

    @staticmethod
    def _due(waiting: dict[int, float], hold_seconds: float) -> float:
        return min(waiting.values()) + hold_seconds


def _settled(
    next_seq: int, waiting: dict[int, float], skipped: frozenset[int], behind: dict[int, int]
) -> SequenceBuffer:
    """Return a buffer that is past skipped numbers, and remembers only those that it needs."""
    next_seq = _after(next_seq, skipped)
    later = frozenset(seq for seq in skipped if seq > next_seq)
    return SequenceBuffer(next_seq=next_seq, waiting=waiting, skipped=later, behind=behind)


def _after(next_seq: int, skipped: frozenset[int]) -> int:
    while next_seq in skipped:
        next_seq += 1
    return next_seq
