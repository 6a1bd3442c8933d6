"""A cached name does not wait for a registry that hangs; a name that has changed does."""

import asyncio
from dataclasses import replace

import pytest

from mint_common.catalog import Resolution
from mint_common.errors import NotFound, Unavailable
from mint_common.ids import PolicyId, TenantId
from services.gateway.adapters import recent_answers
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.core.resolutions import GRACE_SECONDS, ResolutionCache
from tests.testing.clock import ManualClock
from tests.testing.factories import BASE, REVISION

TENANT, NAME, LEASE_SECONDS = TenantId("t"), "policy@prod", 5.0
FIRST = Resolution(base=BASE, policy_id=PolicyId("pol_1"), policy_name="policy", revision=REVISION)
SECOND = replace(FIRST, revision=replace(REVISION, number=REVISION.number + 1))


class Registry:
    def __init__(self) -> None:
        self.meant, self.answers, self.gone, self.asked = FIRST, asyncio.Event(), False, 0
        self.answers.set()

    async def resolve(self, _tenant_id: TenantId, model: str) -> Resolution:
        self.asked += 1
        await self.answers.wait()
        if self.gone:
            raise NotFound(kind="model", name=model)
        return self.meant


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> tuple[CachedResolver, Registry, ManualClock]:
    monkeypatch.setattr(recent_answers, "PATIENCE_SECONDS", 0.02)
    registry, clock = Registry(), ManualClock()
    cache = ResolutionCache(
        capacity=9, lease_seconds=LEASE_SECONDS, switch_seconds=0.0, is_ready=lambda _: True
    )
    resolver = CachedResolver(registry, cache, clock)
    assert await resolver.resolve(TENANT, NAME) == FIRST
    await clock.advance(LEASE_SECONDS)
    return resolver, registry, clock


Rig = tuple[CachedResolver, Registry, ManualClock]


async def test_a_name_answers_while_the_registry_hangs(rig: Rig) -> None:
    resolver, registry, clock = rig
    registry.answers.clear()
    async with asyncio.timeout(5):
        assert await resolver.resolve(TENANT, NAME) == FIRST
    await clock.advance(GRACE_SECONDS)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver.resolve(TENANT, NAME), 0.1)
    registry.meant = SECOND
    registry.answers.set()
    assert await resolver.resolve(TENANT, NAME) == SECOND


async def test_a_slow_answer_is_kept_and_asked_for_once(rig: Rig) -> None:
    resolver, registry, _ = rig
    registry.meant = SECOND
    registry.answers.clear()
    async with asyncio.timeout(5):
        assert [await resolver.resolve(TENANT, NAME) for _ in range(50)] == [FIRST] * 50
    assert registry.asked == 2, "the first question of the test, and one that goes on"
    registry.answers.set()
    await asyncio.sleep(0.01)
    assert await resolver.resolve(TENANT, NAME) == SECOND
    assert registry.asked == 2


async def test_a_caller_that_leaves_ends_its_question(rig: Rig) -> None:
    resolver, registry, clock = rig
    await clock.advance(GRACE_SECONDS)
    registry.answers.clear()
    asking = asyncio.create_task(resolver.resolve(TENANT, NAME))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_a_name_that_has_changed_waits_for_the_registry(rig: Rig) -> None:
    resolver, registry, _ = rig
    registry.answers.clear()
    resolver.forget(TENANT, FIRST.policy_id)
    asking = asyncio.create_task(resolver.resolve(TENANT, NAME))
    await asyncio.sleep(0.1)
    assert not asking.done()
    registry.meant = SECOND
    registry.answers.set()
    assert await asking == SECOND


async def test_an_unknown_name_waits_and_one_that_is_gone_is_forgotten(rig: Rig) -> None:
    resolver, registry, _ = rig
    registry.answers.clear()
    asking = asyncio.create_task(resolver.resolve(TENANT, "policy@other"))
    await asyncio.sleep(0.1)
    assert not asking.done()
    registry.gone = True
    registry.answers.set()
    for answer in (asking, resolver.resolve(TENANT, NAME)):
        with pytest.raises(NotFound):
            await answer
    assert resolver.known(TENANT, NAME) is None


async def test_without_an_answer_the_registry_is_unavailable(rig: Rig) -> None:
    resolver, registry, clock = rig

    async def refuse(_tenant_id: TenantId, _model: str) -> Resolution:
        raise Unavailable(what="the registry", problem="it is away")

    registry.resolve = refuse  # type: ignore[method-assign]
    assert await resolver.resolve(TENANT, NAME) == FIRST
    await clock.advance(GRACE_SECONDS)
    with pytest.raises(Unavailable):
        await resolver.resolve(TENANT, NAME)
