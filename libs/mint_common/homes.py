"""The engines on which an adapter is kept ready, by rendezvous hashing.

Pure: loaders, gateways and rollout find the same homes without asking each other. When an engine joins or
leaves, only its own share of the digests changes one of their homes.
"""

import hashlib
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mint_common.ids import BaseName, Digest, EngineId
from mint_common.members import Member

_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
"""The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of a sum changes half of the result's."""
_WORD = (1 << 64) - 1
_WORD_STEPS = tuple((np.uint64(shift), np.uint64(factor)) for shift, factor in _STEPS)
_LAST_WORD_SHIFT = np.uint64(_LAST_SHIFT)


@lru_cache(maxsize=8192)
def _mark_of(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def weight_of(name: str, key: str) -> int:
    """Return the weight of an engine for a key, 64 bits; the greatest is its first home (Thaler, Ravishankar
    1998)."""
    word = _mark_of(name) ^ _mark_of(key)
    for shift, factor in _STEPS:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> _LAST_SHIFT)


class Rendezvous:
    """A set of engines, whose weights for a key are computed together: 15 us for a thousand of them."""

    def __init__(self, engines: Iterable[EngineId]) -> None:
        self._engines = sorted(set(engines))
        self._marks = np.array([_mark_of(each) for each in self._engines], dtype=np.uint64)

    def first(self, key: str, count: int) -> tuple[EngineId, ...]:
        """Return at most ``count`` engines, those of the greatest weights, the greatest first."""
        weights, found = self._weights(key), list[EngineId]()
        for _ in range(min(count, len(weights))):
            found.append(self._engines[at := int(weights.argmax())])
            weights[at] = 0
        return tuple(found)

    def _weights(self, key: str) -> NDArray[np.uint64]:
        words = self._marks ^ np.uint64(_mark_of(key))
        for shift, factor in _WORD_STEPS:
            words ^= words >> shift
            words *= factor
        words ^= words >> _LAST_WORD_SHIFT
        return words


def homes_of(digest: Digest, engines: Iterable[EngineId], *, count: int) -> tuple[EngineId, ...]:
    """Return at most ``count`` of the engines, the first home first."""
    return Rendezvous(engines).first(digest, count)


def engines_at_home(members: Iterable[Member], base: BaseName) -> frozenset[EngineId]:
    """Return the engines of a base that are homes: those that take requests."""
    return frozenset(
        EngineId(each.member_id)
        for each in members
        if each.kind == "loader" and each.base == base and each.takes_requests
    )
