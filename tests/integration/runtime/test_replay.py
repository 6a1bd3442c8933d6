"""Reading the log from a place on, when the server dies, forgets, or has lost everything."""

import asyncio

import nats
import pytest
from contract.bus_messages import message, publish_all

from mint_common.bus.nats_replay import NatsReplay
from mint_common.bus.port import Replay
from mint_common.errors import EventsExpired
from mint_common.events.subjects import STREAM
from tests.integration.runtime.test_nats_outages import Server, connected, wipe

pytestmark = pytest.mark.integration
SUBJECTS = ["mint.test.>"]


async def take(replay: Replay, count: int) -> list[str]:
    async with asyncio.timeout(30):
        return [(await anext(replay)).message.id for _ in range(count)]


async def test_replay_survives_a_killed_server_without_loss_or_repetition(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.replay(subjects=SUBJECTS, after=None) as replay:
        ids = await publish_all(bus, 70)
        found = await take(replay, 3)
        for _ in range(2):
            own_nats.kill()
            own_nats.start()
            ids += await publish_all(bus, 5)
            found += await take(replay, 20)
        assert found + await take(replay, len(ids) - len(found)) == ids
        ids = await publish_all(bus, 2)
        assert await take(replay, 2) == ids


async def test_reader_whose_requests_get_no_answer_takes_a_new_consumer(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.replay(subjects=SUBJECTS, after=None) as replay:
        assert isinstance(replay, NatsReplay)
        assert await publish_all(bus, 1) == await take(replay, 1)
        assert replay._client is not None
        assert replay._inbox is not None
        await replay._client._send_unsubscribe(replay._inbox._id)  # the server alone forgets the inbox
        ids = await publish_all(bus, 2)
        assert await take(replay, 2) == ids


async def test_place_that_is_not_kept_any_more_is_expired(own_nats: Server) -> None:
    async with connected(own_nats) as bus:
        async with bus.replay(subjects=SUBJECTS, after=None) as replay:
            early = replay.place
            await publish_all(bus, 3)
            await take(replay, 2)
            kept = replay.place
        client = await nats.connect(own_nats.address)
        await client.jetstream().purge_stream(STREAM, seq=3)
        await client.close()
        async with bus.replay(subjects=SUBJECTS, after=kept) as replay:
            await take(replay, 1)
        with pytest.raises(EventsExpired, match=early):
            async with bus.replay(subjects=SUBJECTS, after=early):
                pass


async def test_reading_ends_when_the_store_is_lost(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.replay(subjects=SUBJECTS, after=None) as replay:
        await publish_all(bus, 1)
        await take(replay, 1)
        wipe(own_nats)
        own_nats.start()
        await bus.publish(message())
        with pytest.raises(EventsExpired):
            await take(replay, 1)
        with pytest.raises(EventsExpired):
            async with bus.replay(subjects=SUBJECTS, after=replay.place):
                pass
