"""The NATS bus when its server dies, comes back, or has lost everything."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest
from contract.bus_messages import message, publish_all, take_and_ack

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Delivery
from mint_common.errors import EventInvalid, Unavailable

pytestmark = pytest.mark.integration
SUBJECTS = ["mint.test.>"]


class Server(Protocol):
    """What these tests use of tests/conftest.py's servers."""

    address: str

    def start(self) -> None: ...
    def kill(self) -> None: ...


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[NatsBus]:
    bus = await connect_nats(server.address, name="test")
    try:
        yield bus
    finally:
        await bus.close()


def wipe(server: Server) -> None:
    """Kill the server and lose all that it stored."""
    server.kill()
    shutil.rmtree(server.launch.folder / "jetstream")  # type: ignore[attr-defined]  # its launch, see conftest


async def take_until(deliveries: AsyncIterator[Delivery], last: str) -> list[str]:
    """Ack up to a message and return the ids."""
    ids = []
    while last not in ids:
        ids += await take_and_ack(deliveries)
    return ids


async def test_a_subscription_and_a_watch_survive_a_killed_server(own_nats: Server) -> None:
    async with (
        connected(own_nats) as bus,
        bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries,
        bus.watch(subjects=SUBJECTS) as watch,
    ):
        before = await publish_all(bus, 2)
        assert await take_and_ack(deliveries, 1) == before[:1]
        for _ in range(2):
            own_nats.kill()
            await asyncio.to_thread(own_nats.start)
        after = await publish_all(bus, 2)
        # A kill may lose the last acks too, so an acked message may come once more.
        found = await take_until(deliveries, after[-1])
        assert [each for each in found if each != before[0]] == [before[1], *after]
        async with asyncio.timeout(10):
            heard = [(await anext(watch)).id for _ in range(4)]
        assert heard == before + after


async def test_a_watch_tells_that_it_may_have_missed_messages(own_nats: Server) -> None:
    gaps: list[str] = []
    async with connected(own_nats) as bus, connected(own_nats) as other:
        async with bus.watch(subjects=SUBJECTS, on_gap=lambda: gaps.append("gap")) as watch:
            before = await publish_all(bus, 1)
            assert (await anext(watch)).id == before[0]
            assert gaps == []
            own_nats.kill()
            await asyncio.to_thread(own_nats.start)
            async with asyncio.timeout(10):
                while not gaps:
                    await asyncio.sleep(0.05)
            after = await publish_all(other, 1)  # what comes once the gap is told is heard
            async with asyncio.timeout(10):
                assert (await anext(watch)).id == after[0]
        own_nats.kill()
        await asyncio.to_thread(own_nats.start)
        told = len(gaps)
        await publish_all(bus, 1)
        assert len(gaps) == told, "a watch that has ended is told nothing"


async def test_publishing_waits_for_a_server_that_comes_back(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries:
        own_nats.kill()
        publishing = asyncio.create_task(publish_all(bus, 3))
        await asyncio.sleep(0.5)
        assert not publishing.done()
        await asyncio.to_thread(own_nats.start)
        assert await take_and_ack(deliveries, 3) == await publishing


async def test_a_server_that_stays_away_makes_publishing_unavailable(
    own_nats: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mint_common.bus.nats.PUBLISH_SECONDS", 1.0)
    async with connected(own_nats) as bus:
        own_nats.kill()
        with pytest.raises(Unavailable):
            await bus.publish(message())


async def test_a_wiped_store_is_made_again_under_open_subscriptions(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries:
        await take_and_ack(deliveries, len(await publish_all(bus, 3)))
        wipe(own_nats)
        await asyncio.to_thread(own_nats.start)
        ids = await publish_all(bus, 3)
        assert await take_and_ack(deliveries, 3) == ids
    async with connected(own_nats) as bus, bus.subscribe(durable="idle", subjects=SUBJECTS) as deliveries:
        assert await take_and_ack(deliveries, 3) == ids


async def test_a_silent_subscriber_makes_a_wiped_stream_again(own_nats: Server) -> None:
    """Nobody publishes through us: the reader alone must notice."""
    async with connected(own_nats) as bus, bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries:
        reading = asyncio.create_task(take_and_ack(deliveries, 1))
        await asyncio.sleep(0.1)
        wipe(own_nats)
        await asyncio.to_thread(own_nats.start)
        async with connected(own_nats) as other:
            ids = await publish_all(other, 1)
        assert await reading == ids


async def test_a_deleted_stream_is_made_again(own_nats: Server) -> None:
    async with connected(own_nats) as bus, bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries:
        reading = asyncio.create_task(take_and_ack(deliveries, 1))
        jetstream = await bus._connection.jetstream()
        await asyncio.sleep(0.1)
        await jetstream.delete_stream("MINT")
        ids = await publish_all(bus, 1)
        assert await reading == ids


async def test_a_client_that_has_given_up_is_replaced(own_nats: Server) -> None:
    async with (
        connected(own_nats) as bus,
        bus.subscribe(durable="d", subjects=SUBJECTS) as deliveries,
        bus.watch(subjects=SUBJECTS) as watch,
    ):
        reading = asyncio.create_task(take_and_ack(deliveries, 1))
        await asyncio.sleep(0.1)
        await (await bus._connection.client()).close()
        hearing = asyncio.create_task(anext(watch))
        await asyncio.sleep(2.5)
        ids = await publish_all(bus, 1)
        assert await reading == ids
        async with asyncio.timeout(10):
            assert (await hearing).id == ids[0]


async def test_connecting_waits_for_a_server_that_is_starting(own_nats: Server) -> None:
    own_nats.kill()
    connecting = asyncio.create_task(connect_nats(own_nats.address, name="early"))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(own_nats.start)
    bus = await connecting
    await publish_all(bus, 1)
    await bus.close()


async def test_a_server_that_never_comes_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mint_common.bus.nats_connection.CONNECT_SECONDS", 0.5)
    with pytest.raises(Unavailable):
        await connect_nats("nats://127.0.0.1:1", name="lost")


async def test_an_operators_replicas_and_limits_are_kept(nats_url: str) -> None:
    bus = await connect_nats(nats_url, name="first")
    jetstream = await bus._connection.jetstream()
    found = (await jetstream.stream_info("MINT")).config
    await jetstream.update_stream(found.evolve(max_bytes=1 << 30, max_age=600.0))
    again = await connect_nats(nats_url, name="second")
    now = (await jetstream.stream_info("MINT")).config
    assert (now.max_bytes, now.max_age) == (1 << 30, 7 * 24 * 3600)
    await again.close()
    await bus.close()


async def test_a_message_that_is_too_large_is_no_outage(nats_url: str) -> None:
    bus = await connect_nats(nats_url, name="large")
    with pytest.raises(EventInvalid):
        await bus.publish(message(data=b"x" * (9 << 20)))
    await bus.close()


async def test_any_address_of_a_cluster_will_do(nats_url: str) -> None:
    bus = await connect_nats(f"nats://127.0.0.1:1, {nats_url}", name="test")
    await bus.close()


async def test_a_stream_is_not_made_with_fewer_replicas_than_are_asked_for(nats_url: str) -> None:
    """A server without a cluster keeps one: that is an outage, and no stream of one replica."""
    with pytest.raises(Unavailable):
        await connect_nats(nats_url, name="test", replicas=3)
    bus = await connect_nats(nats_url, name="test")
    await bus.close()
