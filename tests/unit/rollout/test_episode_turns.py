"""Turns at running episodes: a full engine takes turns from its own base, and tenants share the rest."""

import asyncio
from collections import Counter

from mint_common.generation import CacheUse
from mint_common.ids import BaseName, EngineId, TenantId
from services.rollout.core.episode_limits import CUT
from services.rollout.handlers.episode_turns import ADJUST_SECONDS, EpisodeTurns
from tests.testing.clock import ManualClock, settle

FULL, ROOMY = BaseName("full"), BaseName("roomy")
LOUD, OTHER = TenantId("ten_loud"), TenantId("ten_other")


def use(share: float) -> CacheUse:
    return CacheUse(share=share, running=10, waiting=0, preemptions=0)


class World:
    """Episodes that run until they are ended, at engines with a cache's share each."""

    def __init__(self, episodes: int) -> None:
        self.shares = {FULL: 0.1, ROOMY: 0.1}
        self.clock = ManualClock(0.0)
        self.turns = EpisodeTurns(
            lambda base: {EngineId(f"eng_{base}"): use(self.shares[base])}, self.clock, episodes=episodes
        )
        self.running: Counter[tuple[BaseName, TenantId]] = Counter()
        self.ends = asyncio.Semaphore(0)
        self.tasks: list[asyncio.Task[None]] = []

    async def begin(self, base: BaseName, tenant_id: TenantId, count: int) -> None:
        self.tasks += [asyncio.create_task(self._episode(base, tenant_id)) for _ in range(count)]
        await settle()

    async def _episode(self, base: BaseName, tenant_id: TenantId) -> None:
        async with self.turns.turn(base, tenant_id):
            self.running[base, tenant_id] += 1
            try:
                await self.ends.acquire()
            finally:
                self.running[base, tenant_id] -= 1

    async def end(self, count: int) -> None:
        for _ in range(count):
            self.ends.release()
        await settle()

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_full_engine_gets_fewer_episodes_and_another_base_as_many_as_before() -> None:
    world = World(episodes=64)
    adjusting = asyncio.create_task(world.turns.run())
    await world.begin(FULL, LOUD, 60)
    assert world.running[FULL, LOUD] == 48, "a quarter is left to other tenants"
    await world.clock.advance(ADJUST_SECONDS)
    world.shares[FULL] = 0.95
    await world.clock.advance(ADJUST_SECONDS)
    await settle()
    await world.end(20)
    limit = int(48 * CUT)
    assert world.running[FULL, LOUD] == limit - limit // 4
    await world.begin(ROOMY, OTHER, 20)
    assert world.running[ROOMY, OTHER] == 20
    await world.begin(FULL, OTHER, 30)
    assert world.running[FULL, OTHER] == limit // 4, "what one tenant leaves is another's"
    world.shares[FULL] = 0.1
    before = world.running.total()
    await world.clock.advance(ADJUST_SECONDS)
    await settle()
    assert world.running.total() > before
    adjusting.cancel()
    await world.stop()
    assert world.running.total() == 0
