"""The order of one policy's operations: by number, with gaps held back for a bounded time.

A line is a value. Invariants (tests/unit/trainer/test_order.py): every operation that arrives is released
once; without gaps the release is in the order of numbers, whatever the order of arrival; nothing waits longer
than the hold for a number that does not come. One that comes after its gap was released is released at once:
of the operations of one client only parts of one forward and backward pass can overtake each other, and
their gradients add up in any order.
"""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """``next_seq`` is the number that is due; ``waiting`` maps later numbers to their time of arrival."""

    next_seq: int = 0
    waiting: dict[int, float] = field(default_factory=dict)

    def arrive(self, seq: int, *, now: float) -> "Line":
        """Return the line with one more operation, which may be early or late."""
        return replace(self, waiting={**self.waiting, seq: now})

    def release(self, *, now: float, hold_seconds: float) -> "tuple[list[int], Line]":
        """Return the numbers that may be executed now, in order, and the line without them."""
        waiting = dict(self.waiting)
        next_seq = self.next_seq
        released = []
        for seq in sorted(waiting):
            if seq > next_seq and now < self._due(waiting, hold_seconds):
                break
            released.append(seq)
            del waiting[seq]
            next_seq = max(next_seq, seq + 1)
        return released, Line(next_seq=next_seq, waiting=waiting)

    def due(self, *, hold_seconds: float) -> float | None:
        """Return when the gap that holds the line up is released, None if nothing waits."""
        return self._due(self.waiting, hold_seconds) if self.waiting else None

    @staticmethod
    def _due(waiting: dict[int, float], hold_seconds: float) -> float:
        return min(waiting.values()) + hold_seconds
