"""The engines on which an adapter is kept ready, by rendezvous hashing.

Pure: loaders, gateways and rollout find the same homes without asking each other. When an engine joins or
leaves, only its own share of the digests changes one of their homes.
"""

import hashlib
from collections.abc import Iterable
from heapq import nlargest

from mint_common.ids import BaseName, Digest, EngineId
from mint_common.members import Member


def weight_of(name: str, key: str) -> bytes:
    """Return the weight of an engine for a key; the greatest is its first home (Thaler, Ravishankar 1998)."""
    return hashlib.sha256(f"{name}\n{key}".encode()).digest()


def homes_of(digest: Digest, engines: Iterable[EngineId], *, count: int) -> tuple[EngineId, ...]:
    """Return at most ``count`` of the engines, the first home first."""
    weights = ((weight_of(engine_id, digest), engine_id) for engine_id in set(engines))
    return tuple(engine_id for _, engine_id in nlargest(count, weights))


def engines_at_home(members: Iterable[Member], base: BaseName) -> frozenset[EngineId]:
    """Return the engines of a base that are homes: those that take requests."""
    return frozenset(
        EngineId(each.member_id)
        for each in members
        if each.kind == "loader" and each.base == base and each.takes_requests
    )
