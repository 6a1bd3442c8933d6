"""Who calls: the key in a request, and a short memory of keys that the registry has vouched for."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

from mint_common.authority import Caller
from mint_common.errors import Unauthorized


def choose_key(given: Sequence[str]) -> str:
    """Return the one key among what a request's headers carry. Raises Unauthorized."""
    keys = {key.strip() for key in given} - {""}
    if len(keys) == 1:
        return keys.pop()
    if keys:
        raise Unauthorized(problem="The headers carry different API keys: send one.")
    raise Unauthorized(problem="No API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


class KeyMemory:
    """Callers by key, each forgotten ``ttl_seconds`` after it was verified; at most ``capacity`` of them.

    Only hashes of keys are kept. A refused key is never remembered: it may exist a moment later.
    """

    def __init__(self, *, ttl_seconds: float, capacity: int) -> None:
        self._ttl_seconds = ttl_seconds
        self._capacity = capacity
        self._entries: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    def get(self, key: str, *, now: float) -> Caller | None:
        """Return the caller of a key verified less than ``ttl_seconds`` ago."""
        name = _hash(key)
        entry = self._entries.get(name)
        if entry is None:
            return None
        verified_at, caller = entry
        return None if now - verified_at >= self._ttl_seconds else caller

    def forget(self, key: str) -> None:
        """Believe a key no more."""
        self._entries.pop(_hash(key), None)

    def put(self, key: str, caller: Caller, *, now: float) -> None:
        """Remember a verified key, and forget the oldest ones beyond the capacity."""
        name = _hash(key)
        self._entries.pop(name, None)
        self._entries[name] = (now, caller)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
