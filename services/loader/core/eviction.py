"""What a resident is worth: who leaves first when room is needed.

GDSF (greedy dual size frequency): worth = age + uses * reload cost / bytes. ``age`` is the worth of the last
victim, so what was worth much long ago does not stay for ever; a scan of names used once never displaces what
is used often, and of two used alike the one that is cheaper to bring back per byte leaves first. LRU and LFU
are here to be compared with (benches/eviction.py).
"""

from enum import StrEnum


class Policy(StrEnum):
    """How worth is reckoned."""

    GDSF = "gdsf"
    LRU = "lru"
    LFU = "lfu"


def worth(policy: Policy, *, age: float, uses: int, cost_seconds: float, size_bytes: int, turn: int) -> float:
    """Return what a resident is worth at a use; the least worth leaves first. ``turn`` counts uses of all."""
    if policy is Policy.LRU:
        return float(turn)
    if policy is Policy.LFU:
        return float(uses)
    return age + uses * max(cost_seconds, LEAST_COST_SECONDS) * 1e6 / max(size_bytes, 1)


LEAST_COST_SECONDS = 1e-4
"""A load measured as nothing still costs something."""
