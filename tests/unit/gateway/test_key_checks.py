"""Checks of keys: bounded for keys that nobody knows, and good for a while without the registry."""

import asyncio

import pytest

from mint_common.catalog import KeyOwner
from mint_common.errors import MintError, Overloaded, Unauthorized, Unavailable
from mint_common.ids import TenantId
from services.gateway.adapters import recent_answers
from services.gateway.adapters.key_checks import (
    ADDRESS_CHECKS,
    AWAY_SECONDS,
    UNKNOWN_CHECKS,
    WAITING_OF_ADDRESS,
    KeyChecks,
)
from services.gateway.core.callers import GRACE_SECONDS, REFUSED_SECONDS, KeyMemory
from tests.testing.clock import ManualClock

TTL_SECONDS = 10.0


class Registry:
    """Knows keys that begin with ``good``, once it may answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: MintError | None = None
        self.hangs = False
        self.answers = asyncio.Event()
        self.answers.set()

    async def verify_key(self, key: str) -> KeyOwner:
        self.asked.append(key)
        if self.hangs or not key.startswith("good"):
            await self.answers.wait()
        if self.error is not None:
            raise self.error
        if not key.startswith("good"):
            raise Unauthorized(problem="This API key is not known.")
        return KeyOwner(tenant_id=TenantId(key), key_id=key, name="k", scopes=("read",))


class Rig:
    def __init__(self) -> None:
        self.clock, self.registry = ManualClock(), Registry()
        memory = KeyMemory(ttl_seconds=TTL_SECONDS, capacity=1000)
        self.checks = KeyChecks(self.registry, memory, self.clock)

    async def ask(self, key: str, *, address: str = "a", afresh: bool = False) -> str:
        return (await self.checks.caller_of(key, address=address, afresh=afresh)).tenant_id

    async def hang(self) -> None:
        """Let the registry hang once no answer is fresh."""
        await self.clock.advance(TTL_SECONDS)
        self.registry.answers.clear()
        self.registry.hangs = True


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_known_key_waits_for_no_flood_of_unknown_ones(rig):
    await rig.ask("good")
    await rig.clock.advance(TTL_SECONDS)
    rig.registry.answers.clear()
    flood = [asyncio.create_task(rig.ask(f"bad{n}", address=f"{n % 9}")) for n in range(900)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await rig.ask("good") == "good"
        assert await rig.ask("good", afresh=True) == "good"
    assert len([key for key in rig.registry.asked if key.startswith("bad")]) == UNKNOWN_CHECKS
    rig.registry.answers.set()
    assert {type(each) for each in await asyncio.gather(*flood, return_exceptions=True)} == {Unauthorized}


async def test_an_address_has_a_bounded_queue_and_leaves_room_for_others(rig):
    rig.registry.answers.clear()
    flood = [asyncio.create_task(rig.ask(f"bad{n}")) for n in range(2 * WAITING_OF_ADDRESS)]
    async with asyncio.timeout(10):
        assert await rig.ask("good", address="b") == "good"
    assert len(rig.registry.asked) == ADDRESS_CHECKS + 1
    rig.registry.answers.set()
    told = [type(each) for each in await asyncio.gather(*flood, return_exceptions=True)]
    assert told.count(Overloaded) == WAITING_OF_ADDRESS == told.count(Unauthorized)


async def test_a_refused_key_is_asked_about_once_a_moment(rig):
    for _ in range(5):
        with pytest.raises(Unauthorized):
            await rig.ask("bad")
    assert rig.registry.asked == ["bad"]
    await rig.clock.advance(REFUSED_SECONDS)
    with pytest.raises(Unauthorized):
        await rig.ask("bad")
    assert rig.registry.asked == ["bad", "bad"]


async def test_many_requests_with_a_new_key_ask_once_and_one_that_leaves_ends_none(rig):
    asked = [asyncio.create_task(rig.ask("good")) for _ in range(2 * WAITING_OF_ADDRESS)]
    await asyncio.sleep(0)
    asked.pop(0).cancel()
    assert set(await asyncio.gather(*asked)) == {"good"}
    assert rig.registry.asked == ["good"]


async def test_without_the_registry_a_key_is_good_for_a_while_but_not_for_what_asks_afresh(rig):
    await rig.ask("good")
    rig.registry.error = Unavailable(what="the registry", problem="it is away")
    await rig.clock.advance(GRACE_SECONDS - 0.1)
    assert await rig.ask("good") == "good"
    with pytest.raises(Unavailable):
        await rig.ask("good", afresh=True)
    with pytest.raises(Unavailable):
        await rig.ask("good2")
    await rig.clock.advance(0.1)
    with pytest.raises(Unavailable):
        await rig.ask("good")


async def test_a_known_key_does_not_wait_for_a_registry_that_hangs(rig, monkeypatch):
    monkeypatch.setattr(recent_answers, "PATIENCE_SECONDS", 0.02)
    await rig.ask("good")
    await rig.hang()
    async with asyncio.timeout(5):
        assert [await rig.ask("good") for _ in range(3)] == ["good"] * 3
    assert len(rig.registry.asked) == 2, "it is left alone for a while"
    waiting = asyncio.create_task(rig.ask("good", afresh=True))
    await asyncio.sleep(0.1)
    assert not waiting.done(), "a change asks afresh"
    rig.registry.answers.set()
    assert await waiting == "good"


async def test_a_slow_no_is_learned(rig, monkeypatch):
    monkeypatch.setattr(recent_answers, "PATIENCE_SECONDS", 0.02)
    await rig.ask("good")
    await rig.hang()
    assert await rig.ask("good") == "good"
    rig.registry.error = Unauthorized(problem="This API key was revoked.")
    rig.registry.answers.set()
    await asyncio.sleep(0.01)
    asked = len(rig.registry.asked)
    with pytest.raises(Unauthorized):
        await rig.ask("good")
    assert len(rig.registry.asked) == asked


async def test_one_key_s_slow_check_gives_no_other_key_a_grace(rig, monkeypatch):
    monkeypatch.setattr(recent_answers, "PATIENCE_SECONDS", 0.02)
    await rig.ask("good")
    await rig.ask("good2")
    await rig.hang()
    assert await rig.ask("good") == "good"
    rig.registry.hangs = False
    rig.registry.error = Unauthorized(problem="This API key was revoked.")
    with pytest.raises(Unauthorized):
        await rig.ask("good2")
    rig.registry.answers.set()


async def test_a_registry_that_is_away_is_asked_now_and_then(rig):
    await rig.ask("good")
    await rig.clock.advance(TTL_SECONDS)
    rig.registry.error = Unavailable(what="the registry", problem="it hangs")
    for _ in range(5):
        await rig.ask("good")
    assert len(rig.registry.asked) == 2
    await rig.clock.advance(AWAY_SECONDS)
    rig.registry.error = Unauthorized(problem="This API key is not known.")
    with pytest.raises(Unauthorized):
        await rig.ask("good")


async def test_a_key_that_was_revoked_has_no_grace(rig):
    await rig.ask("good")
    await rig.clock.advance(TTL_SECONDS)
    rig.registry.error = Unauthorized(problem="This API key is not known.")
    with pytest.raises(Unauthorized):
        await rig.ask("good")
    await rig.clock.advance(REFUSED_SECONDS)
    rig.registry.error = Unavailable(what="the registry", problem="it is away")
    with pytest.raises(Unavailable):
        await rig.ask("good")
