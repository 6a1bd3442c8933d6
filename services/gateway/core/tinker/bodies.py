"""How much of their requests a key may have in this process at once."""

from collections import Counter

from mint_common.errors import Overloaded

MAX_BODY_BYTES = 16 << 20
"""Of one body, before and after it is decompressed. Clients split a batch into parts of 5 MB."""
OPEN_BYTES = 64 << 20
"""Of all bodies of one key; clients keep to 50 MB by themselves."""


class OpenBodies:
    """Counts bytes by key. Nothing is kept of a key that has no request."""

    def __init__(self, *, limit_bytes: int = OPEN_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._open: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()

    def take(self, key: str, size_bytes: int) -> None:
        """Admit a body of that size. Raises Overloaded, except for a key's only request."""
        if self._requests[key] and self._open[key] + size_bytes > self._limit_bytes:
            depth = self._requests[key]
            raise Overloaded(what="the space for this key's requests", depth=depth, retry_after_seconds=1)
        self._open[key] += size_bytes
        self._requests[key] += 1

    def give_back(self, key: str, size_bytes: int) -> None:
        """End what was taken."""
        self._open[key] -= size_bytes
        self._requests[key] -= 1
        if not self._requests[key]:
            del self._open[key], self._requests[key]
