"""Bytes of streamed answers that the engine has made and their readers have not read yet.

They wait here rather than at the engine, where an adapter would keep its slot for a slow reader.
Invariant: however much one tenant leaves unread, others find room.
"""

from collections import Counter
from dataclasses import dataclass, field

MOST_BYTES = 256 << 20
_TENANTS_ROOM = 3
"""Divisor of the free room, as in `open_work`: a tenant alone takes 3/4 of all, each of two takes 3/7."""


@dataclass(slots=True)
class UnreadAnswers:
    """Counts unread bytes by tenant."""

    most_bytes: int = MOST_BYTES
    _bytes: Counter[str] = field(default_factory=Counter)

    def of_stream(self, tenant: str) -> "UnreadStream":
        """Return the count of one stream of a tenant."""
        return UnreadStream(self, tenant)

    def has_room(self, tenant: str) -> bool:
        """Return whether a tenant may leave more unread."""
        return self._bytes[tenant] < _TENANTS_ROOM * (self.most_bytes - self._bytes.total())

    def count(self, tenant: str, size_bytes: int) -> None:
        """Count bytes in, or out when negative."""
        self._bytes[tenant] += size_bytes
        if not self._bytes[tenant]:
            del self._bytes[tenant]


@dataclass(slots=True)
class UnreadStream:
    """The unread bytes of one stream."""

    _answers: UnreadAnswers
    _tenant: str
    _bytes: int = 0

    @property
    def has_room(self) -> bool:
        """Return whether more may be left unread; a stream that leaves nothing always may."""
        return not self._bytes or self._answers.has_room(self._tenant)

    def add(self, size_bytes: int) -> None:
        """Count bytes that the engine has made; negative, that were read."""
        self._bytes += size_bytes
        self._answers.count(self._tenant, size_bytes)

    def clear(self) -> None:
        """Note that the rest is given up."""
        self._answers.count(self._tenant, -self._bytes)
        self._bytes = 0
