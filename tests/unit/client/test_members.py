"""Engines and trainers that come and go: requests follow, and what is silent is chosen last."""

import asyncio
import time
from dataclasses import replace
from typing import cast

import pytest
from unit.client.test_directory import answers, listening

from mint_common.client.choice import RoutedRequest
from mint_common.client.directory import EngineDirectory
from mint_common.client.members import (
    FOLLOW_SECONDS,
    TOGETHER_SECONDS,
    Announcement,
    MembersWatch,
    first_beat,
)
from mint_common.client.silence import SilentEngines
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import Unavailable
from mint_common.members import LEASE_SECONDS, Beat, Member, MemberReplaced
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import publish_event
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import BASE, ENGINE_INFO, EXAMPLES


def member(url: str, *, name: str = "engine-1", **changes: object) -> Member:
    known = Member(
        kind="loader", member_id=name, epoch="run-1", url=url, base=BASE, state="ready", silent_seconds=0.0
    )
    return replace(known, **changes)


def named(name: str) -> dict[str, object]:
    return {**answers(), "/internal/engine": replace(ENGINE_INFO, engine_id=name)}


async def test_an_engine_that_announces_itself_is_found_and_one_that_left_is_not() -> None:
    async with listening(named("one")) as one:
        directory = EngineDirectory([], token="t")
        with pytest.raises(Unavailable):
            await directory.find(BASE)
        directory.follow_members([member(one, name="one")])
        async with asyncio.timeout(10):
            assert (await directory.find(BASE)) is directory.clients()[0]
        directory.follow_members([])
        assert directory.clients() == []
        with pytest.raises(Unavailable):
            await directory.find(BASE)
        await directory.aclose()


@pytest.mark.parametrize("change", [{"state": "draining"}, {"silent_seconds": LEASE_SECONDS + 1}])
async def test_a_member_that_drains_or_is_silent_is_chosen_last(change: dict[str, object]) -> None:
    async with listening(named("one")) as one, listening(named("two")) as two:
        directory = EngineDirectory([], token="t")
        both = [member(one, name="one"), member(two, name="two")]
        directory.follow_members(both)
        assert len(await directory.engines()) == 2
        for last, first in ((0, two), (1, one)):
            changed = [
                replace(each, **change) if number == last else each for number, each in enumerate(both)
            ]
            directory.follow_members(changed)
            for digest in ("", *(f"sha256:{number}" for number in range(5))):
                assert (await directory._order(BASE, RoutedRequest(digest=digest)))[0] == first
        await directory.aclose()


async def test_an_engine_that_answers_nothing_comes_behind_one_that_drains() -> None:
    async with listening(named("one")) as one, listening(named("two")) as two:
        directory = EngineDirectory([], token="t")
        directory.follow_members([member(one, name="one"), member(two, name="two", state="draining")])
        assert len(await directory.engines()) == 2
        assert await directory._order(BASE) == [one, two]
        asked, directory._silent = directory._silent, cast("SilentEngines", {one})
        assert await directory._order(BASE) == [two, one]
        directory._silent = asked
        await directory.aclose()


async def test_an_engine_that_is_on_the_list_and_announces_itself_is_one() -> None:
    """A service's name in compose leads to any of its replicas: only their own addresses are used then."""
    async with listening(named("one")) as shared_name, listening(named("one")) as own:
        directory = EngineDirectory([shared_name], token="t")
        assert len(await directory.engines()) == 1
        directory.follow_members([member(own, name="one")])
        async with asyncio.timeout(10):
            while await directory._order(BASE) != [own]:
                await asyncio.sleep(0.02)
        assert len(await directory.engines()) == 1
        await directory.aclose()


async def test_trainers_come_and_go() -> None:
    directory = TrainerDirectory(["http://127.0.0.1:1"], token="t")
    directory.follow_members([member("http://127.0.0.1:2"), member("http://127.0.0.1:3")])
    assert sorted(directory._clients) == [f"http://127.0.0.1:{number}" for number in (1, 2, 3)]
    directory.follow_members([member("http://127.0.0.1:3")])
    assert sorted(directory._clients) == ["http://127.0.0.1:1", "http://127.0.0.1:3"]
    await directory.aclose()


class Beats:
    """A registry that hears beats."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.left: list[str] = []
        self.problem: Exception | None = None

    async def beat(self, beat: Beat) -> None:
        self.states.append(beat.state)
        if self.problem:
            raise self.problem

    async def leave(self, beat: Beat) -> None:
        self.left.append(beat.epoch)


async def test_a_change_of_state_is_said_at_once_and_an_end_too() -> None:
    registry, state = Beats(), ["starting"]
    said = first_beat("loader", member_id="one", url="http://a:1", base=BASE)
    announcement = Announcement(registry, said, state=lambda: state[-1], clock=SystemClock())  # type: ignore[arg-type]  # beats and leave alone
    running = asyncio.create_task(announcement.run())
    async with asyncio.timeout(1.5):  # less than the next beat
        for each in ("ready", "draining"):
            state.append(each)
            while each not in registry.states:
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert registry.left == [said.epoch]


async def test_an_outage_ends_no_announcement_but_another_process_of_its_name_does() -> None:
    registry = Beats()
    registry.problem = Unavailable(what="the registry", problem="away")
    said = first_beat("loader", member_id="one", url="http://a:1", base=BASE)
    state = ["starting"]
    announcement = Announcement(registry, said, state=lambda: state[-1], clock=SystemClock())  # type: ignore[arg-type]  # as above
    running = asyncio.create_task(announcement.run())
    async with asyncio.timeout(1.5):
        while not registry.states:
            await asyncio.sleep(0.01)
        registry.problem = MemberReplaced(kind="loader", name="one")
        state.append("ready")
        with pytest.raises(MemberReplaced):
            await running


class Rows:
    """A registry that lists members."""

    def __init__(self) -> None:
        self.reads = 0

    async def members(self) -> list[Member]:
        self.reads += 1
        return [member("http://a:1")]


async def test_a_change_of_a_member_is_read_at_once_and_many_together() -> None:
    rows, bus, heard = Rows(), MemoryBus(SystemClock()), list[int]()
    watch = MembersWatch(rows, lambda members: heard.append(len(members)), SystemClock())  # type: ignore[arg-type]  # the list alone
    work = [asyncio.ensure_future(each()) for each in watch.work(bus)]
    await asyncio.sleep(TOGETHER_SECONDS + 0.05)
    assert heard == [1]
    began = time.monotonic()
    for number in range(50):
        event = replace(EXAMPLES["member.changed"], change_id=str(number))
        await publish_event(bus, event, cause="test", now=0.0)
    while len(heard) < 2:
        await asyncio.sleep(0.005)
    assert time.monotonic() - began < FOLLOW_SECONDS / 2
    await asyncio.sleep(0.3 * FOLLOW_SECONDS)
    assert rows.reads <= 4
    for each in work:
        each.cancel()
    await asyncio.gather(*work, return_exceptions=True)
