"""Count the open requests of each tenant or key, and their total size."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import Overloaded

RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A request's sequences on an engine, and the bytes held for it.

    These are the prompt's while it waits, or those of an answer that is held whole.
    """

    sequences: int = 0
    size_bytes: int = 0

    @property
    def seats(self) -> int:
        """Return the engine seats used: one for each sequence, and one for the request."""
        return 1 + self.sequences


_NO_SIZE = Size()


@dataclass(slots=True, kw_only=True)
class OpenRequests:
    """Counts by tenant or key. The first request of each is always taken. ``what`` names it in errors."""

    what: str
    most: int
    most_sequences: float = math.inf
    most_bytes: float = math.inf
    _open: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    @contextmanager
    def counted(self, whose: str, size: Size = _NO_SIZE) -> Iterator[None]:
        """Count a request while the body runs. Raises Overloaded."""
        self.check(whose, size)
        self.take(whose, size)
        try:
            yield
        finally:
            self.give_back(whose, size)

    def check(self, whose: str, size: Size) -> None:
        """Raise Overloaded when the request would exceed a bound."""
        count, sequences, size_bytes = self._open.get(whose, (0, 0, 0))
        is_full = (
            count >= self.most
            or sequences + size.sequences > self.most_sequences
            or size_bytes + size.size_bytes > self.most_bytes
        )
        if count and is_full:
            raise Overloaded(what=self.what, depth=count, retry_after_seconds=RETRY_AFTER_SECONDS)

    def take(self, whose: str, size: Size) -> None:
        """Count a request in."""
        count, sequences, size_bytes = self._open.get(whose, (0, 0, 0))
        self._open[whose] = (count + 1, sequences + size.sequences, size_bytes + size.size_bytes)

    def give_back(self, whose: str, size: Size) -> None:
        """Count a request out."""
        count, sequences, size_bytes = self._open[whose]
        if count == 1:
            del self._open[whose]
        else:
            self._open[whose] = (count - 1, sequences - size.sequences, size_bytes - size.size_bytes)
