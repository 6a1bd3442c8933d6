"""Limits of concurrent episodes per engine, adjusted by the use of its KV cache. Pure.

Additive increase and multiplicative decrease (Chiu and Jain 1989), with thresholds as prime-rl has them in
its `concurrency.py`. A KV cache that is full pushes sequences out, which are read again from their beginning:
then fewer episodes end sooner.

Invariants: a limit changes by the reports of its own engine alone; it is never below `LEAST` nor above the
service's own; an engine that does not say how full it is has the latter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mint_common.generation import FULL_CACHE, CacheUse
from mint_common.ids import EngineId

ROOMY = 0.7
"""Share of an engine's KV blocks in use below which its limit grows; from `FULL_CACHE` on it is cut."""
STEP, CUT = 8, 0.8
LEAST = 8
"""Episodes of an engine that is full of others' work: its own queue is fair to tenants."""
SETTLE_SECONDS = 15.0
"""Time from a cut of an engine's limit to the next: episodes that run are not ended, and must end first."""
QUEUE = 0.5
"""Waiting sequences to running ones above which more episodes would wait as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimit:
    """Episodes that may run at an engine; ``preemptions`` are those that the limit already answers.

    It was last cut at ``cut_at``, in seconds of a monotonic clock.
    """

    episodes: float
    preemptions: int = 0
    cut_at: float = -math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeCounts:
    """Episodes of a base that run, and that wait for its limit; ``most`` is the service's own limit."""

    running: int
    waiting: int
    most: int


Limits = Mapping[EngineId, EngineLimit]


def base_limit(limits: Limits, *, most: int) -> int:
    """Return how many episodes of a base run at a time: its engines' together, ``most`` if none is known."""
    total = sum(limit.episodes for limit in limits.values())
    return min(most, max(LEAST, math.floor(total))) if limits else most


def next_limits(
    limits: Limits, uses: Mapping[EngineId, CacheUse | None], counts: EpisodeCounts, *, now: float
) -> dict[EngineId, EngineLimit]:
    """Return the limits of the engines that answer now, after their reports.

    A limit is cut again only `SETTLE_SECONDS` later, and once no more episodes run than the base's limit. It
    grows only while episodes wait for it.
    """
    total = sum(limit.episodes for limit in limits.values())
    has_settled = counts.running <= base_limit(limits, most=counts.most)
    found: dict[EngineId, EngineLimit] = {}
    for engine_id, use in uses.items():
        limit = limits.get(engine_id)
        if use is None:
            found[engine_id] = EngineLimit(episodes=counts.most)
        elif limit is None:
            found[engine_id] = EngineLimit(episodes=counts.most, preemptions=use.preemptions)
        else:
            own = counts.running * limit.episodes / total
            may_cut = has_settled and now - limit.cut_at >= SETTLE_SECONDS
            found[engine_id] = _next(limit, use, counts, own=own, cut_at=now if may_cut else None)
    return found


def _next(
    limit: EngineLimit, use: CacheUse, counts: EpisodeCounts, *, own: float, cut_at: float | None
) -> EngineLimit:
    """Return the limit of an engine that runs about ``own`` episodes; ``cut_at`` None: it is not cut now."""
    is_full = use.share >= FULL_CACHE or use.preemptions > limit.preemptions
    noted = replace(limit, preemptions=use.preemptions)
    if is_full and own and cut_at is not None:
        episodes = min(counts.most, max(LEAST, CUT * min(limit.episodes, own)))
        return replace(noted, episodes=episodes, cut_at=cut_at)
    if not is_full and counts.waiting and use.share < ROOMY and use.waiting <= QUEUE * use.running:
        return replace(noted, episodes=min(counts.most, limit.episodes + STEP))
    return noted
