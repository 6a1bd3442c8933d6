"""Turns at running episodes: of all bases together, and of each base as its engines' KV caches bear them."""

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mint_common.generation import CacheUse
from mint_common.ids import BaseName, EngineId, TenantId
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from services.rollout import metrics
from services.rollout.core.episode_limits import EngineLimit, EpisodeCounts, base_limit, next_limits

log = logging.getLogger(__name__)

ADJUST_SECONDS = 3.0
"""Interval of the limits; that of the engines' reports."""

CacheUses = Callable[[BaseName], Mapping[EngineId, CacheUse | None]]


@dataclass(slots=True, kw_only=True)
class _Base:
    turns: FairGate
    limits: dict[EngineId, EngineLimit] = field(default_factory=dict)


class EpisodeTurns:
    """At most ``episodes`` turns at a time, of which a tenant leaves a quarter to others; so of each base.

    A turn of a base comes before one of all: a base that waits for its engines takes no turn of another's.
    """

    def __init__(self, uses: CacheUses, clock: Clock, *, episodes: int) -> None:
        self._uses = uses
        self._clock = clock
        self._most = episodes
        self._all = FairGate(episodes, limit=_of_tenant(episodes))
        self._bases: dict[BaseName, _Base] = {}

    @asynccontextmanager
    async def turn(self, base: BaseName, tenant_id: TenantId) -> AsyncIterator[None]:
        """Wait for a turn, and hold it for the block."""
        if base not in self._bases:
            self._bases[base] = _Base(turns=FairGate(self._most, limit=_of_tenant(self._most)))
        async with self._bases[base].turns.turn(tenant_id), self._all.turn(tenant_id):
            yield

    def adjust(self) -> None:
        """Set the turns of each base by what its engines reported last."""
        for base, each in self._bases.items():
            turns = each.turns
            counts = EpisodeCounts(running=turns.seated, waiting=turns.waiting, most=self._most)
            before = base_limit(each.limits, most=self._most)
            each.limits = next_limits(each.limits, self._uses(base), counts, now=self._clock.monotonic())
            limit = base_limit(each.limits, most=self._most)
            metrics.EPISODE_LIMIT.labels(base).set(limit)
            if limit != before:
                told = {"base": base, "limit": limit, "before": before, "running": counts.running}
                log.info("limit of episodes changed", extra=told)
                turns.resize(limit, limit=_of_tenant(limit))

    async def run(self) -> None:
        """Adjust until cancelled."""
        while True:
            self.adjust()
            await self._clock.sleep(ADJUST_SECONDS)


def _of_tenant(turns: int) -> int:
    """Return how many of some turns a tenant may have; the others are left to other tenants."""
    return max(1, turns - max(1, turns // 4))
