"""A cluster of three NATS servers whose leader is killed: nothing is lost, and publishing goes on."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.bus_messages import message, take_and_ack

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.errors import Unavailable
from mint_common.events.subjects import STREAM
from tests.nats_cluster import make_cluster
from tests.own_servers import RunningServer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def cluster(server_folder: Path) -> Iterator[list[RunningServer]]:
    servers = make_cluster(server_folder / "cluster")
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


async def connected(cluster: list[RunningServer]) -> NatsBus:
    """Connect once the servers have found each other and hold three copies."""
    addresses = ",".join(server.address for server in cluster)
    async with asyncio.timeout(30):
        while True:
            try:
                return await connect_nats(addresses, name="test", replicas=len(cluster))
            except Unavailable:
                await asyncio.sleep(0.2)


async def leader_of(bus: NatsBus) -> int:
    """Return the number of the server that leads the stream."""
    jetstream = await bus._connection.jetstream()  # no service asks for it
    info = await jetstream.stream_info(STREAM)
    assert info.config.num_replicas == 3
    assert info.cluster is not None
    return int((info.cluster.leader or "n0").removeprefix("n"))


async def test_what_was_published_around_the_leaders_end_arrives_once(cluster: list[RunningServer]) -> None:
    bus = await connected(cluster)
    messages = [message() for _ in range(1200)]
    leader = await leader_of(bus)
    gap = 0.0
    for first in range(0, len(messages), 100):
        if first == 500:
            cluster[leader].kill()
        began = time.monotonic()
        while True:
            try:
                assert await bus.publish_in_order(messages[first : first + 100]) == [None] * 100
            except Unavailable:
                continue
            break
        gap = max(gap, time.monotonic() - began)
    assert gap < 30  # an election takes 4 to 8 s on a quiet machine
    async with bus.subscribe(durable="late", subjects=["mint.test.>"], batch=200) as deliveries:
        arrived = await take_and_ack(deliveries, len(messages))
    assert sorted(arrived) == sorted(each.id for each in messages)
    assert arrived[:500] == [each.id for each in messages[:500]]
    await asyncio.to_thread(cluster[leader].start)
    await bus.close()
