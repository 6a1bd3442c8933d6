"""While a service is upgraded, replicas of two versions share a subscription."""

import asyncio
from dataclasses import replace

import pytest
from unit.runtime.test_dispatch import MOVED, Recorder, World

from mint_common.bus.port import Message
from mint_common.events import AliasMoved, Event, RevisionPublished
from mint_common.events.subjects import subjects_of
from mint_common.runtime.dispatch import IGNORED_ATTEMPTS, UPGRADE_ATTEMPTS, UPGRADE_SECONDS
from mint_common.runtime.ledger_postgres import event_message
from tests.testing.clock import settle


def as_of_a_newer_version(event: Event) -> Message:
    message = event_message(event, cause="request-1", now=0.0)
    return replace(message, data=message.data.replace(b'"version":1', b'"version":9'))


async def test_an_event_of_a_newer_version_waits_for_a_newer_replica() -> None:
    world = World()
    handler = Recorder(world.clock)
    world.dispatcher.on(AliasMoved, handler)
    async with world.running():
        await world.bus.publish(as_of_a_newer_version(MOVED))
        await settle()
        await world.clock.advance(UPGRADE_SECONDS - 1)
        await world.publish(replace(MOVED, sequence=9))
        await settle()
        assert [event.sequence for event in handler.events] == [9], "it holds nobody up"
        assert not world.seen("mint.dead.")
    # The newer replica reads it from the same subscription.
    await world.clock.advance(UPGRADE_SECONDS)
    async with world.bus.subscribe(durable="registry", subjects=[]) as deliveries, asyncio.timeout(5):
        assert b'"version":9' in (await anext(deliveries)).message.data


async def test_an_event_that_no_version_reads_is_dead_after_an_hour() -> None:
    world = World()
    world.dispatcher.on(AliasMoved, Recorder(world.clock))
    async with world.running():
        await world.bus.publish(as_of_a_newer_version(MOVED))
        for _ in range(UPGRADE_ATTEMPTS - 1):
            await settle()
            assert not world.seen("mint.dead.")
            await world.clock.advance(UPGRADE_SECONDS)
        await settle()
        assert len(world.seen("mint.dead.")) == 1


async def test_an_event_without_a_handler_here_is_left_to_another_replica_for_a_while() -> None:
    world = World()
    world.dispatcher.on(RevisionPublished, Recorder(world.clock))
    subjects = [subjects_of(AliasMoved), subjects_of(RevisionPublished)]
    async with world.bus.subscribe(durable="registry", subjects=subjects) as newer:
        async with world.running():
            await world.publish(MOVED)
            await settle()
        await world.clock.advance(UPGRADE_SECONDS)
        async with asyncio.timeout(5):
            await (await anext(newer)).ack()
    async with world.running():
        await world.publish(replace(MOVED, sequence=9))
        for _ in range(IGNORED_ATTEMPTS + 1):
            await settle()
            await world.clock.advance(UPGRADE_SECONDS)
    assert not world.seen("mint.dead.")


async def test_what_is_given_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mint_common.runtime.dispatch.MAX_GIVEN_BACK", 2)
    world = World()
    world.dispatcher.on(AliasMoved, Recorder(world.clock))
    async with world.running():
        for number in range(5):
            await world.bus.publish(as_of_a_newer_version(replace(MOVED, sequence=number)))
        await settle()
        assert len(world.seen("mint.dead.")) == 3
        await world.clock.advance(UPGRADE_SECONDS)
        await settle()
        assert len(world.seen("mint.dead.")) == 3, "the two are given back again"
