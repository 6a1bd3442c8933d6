"""The caller of a request: its key, and a short-lived cache of keys that the registry has verified."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeVar

from mint_common.authority import Caller
from mint_common.errors import Unauthorized

GRACE_SECONDS = 60.0
"""Time after its last check in which a key is valid while the registry does not answer: longer than its
restart."""
REFUSED_SECONDS = 1.0

T = TypeVar("T")


def choose_key(given: Sequence[str]) -> str:
    """Return the one key among what a request's headers carry. Raises Unauthorized."""
    keys = {key.strip() for key in given} - {""}
    if len(keys) == 1:
        return keys.pop()
    if keys:
        raise Unauthorized(problem="The headers carry different API keys: send one.")
    raise Unauthorized(problem="No API key: send 'Authorization: Bearer KEY' or 'X-API-Key: KEY'.")


class KeyMemory:
    """Cache of callers by key, each valid for ``ttl_seconds`` after its check; ``capacity`` entries at most.

    Only hashes of keys are stored. A refused key is cached for one second only: it may be created soon.
    """

    def __init__(self, *, ttl_seconds: float, capacity: int) -> None:
        self._ttl_seconds = ttl_seconds
        self._capacity = capacity
        self._verified: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def get(self, key: str, *, now: float) -> Caller | None:
        """Return the caller of a key verified less than ``ttl_seconds`` ago."""
        return self._verified_since(key, now - self._ttl_seconds)

    def recent(self, key: str, *, now: float) -> Caller | None:
        """Return the caller of a key that stays valid while the registry does not answer."""
        return self._verified_since(key, now - max(self._ttl_seconds, GRACE_SECONDS))

    def last(self, key: str) -> Caller | None:
        """Return the caller of a key at its last check, however long ago."""
        return self._verified_since(key, -math.inf)

    def check_refused(self, key: str, *, now: float) -> None:
        """Raise Unauthorized for a key that was refused within the last second."""
        at, problem = self._refused.get(_hash(key), (-math.inf, ""))
        if now - at < REFUSED_SECONDS:
            raise Unauthorized(problem=problem)

    def refuse(self, key: str, error: Unauthorized, *, now: float) -> None:
        """Forget a key's caller, and cache the refusal for a second."""
        self._verified.pop(_hash(key), None)
        _keep(self._refused, _hash(key), (now, str(error)), self._capacity)

    def put(self, key: str, caller: Caller, *, now: float) -> None:
        """Cache a verified key, and drop the oldest beyond the capacity."""
        _keep(self._verified, _hash(key), (now, caller), self._capacity)

    def _verified_since(self, key: str, at: float) -> Caller | None:
        verified_at, caller = self._verified.get(_hash(key), (-math.inf, None))
        return caller if verified_at > at else None


def _keep(entries: OrderedDict[bytes, T], name: bytes, entry: T, capacity: int) -> None:
    entries.pop(name, None)
    entries[name] = entry
    while len(entries) > capacity:
        entries.popitem(last=False)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
