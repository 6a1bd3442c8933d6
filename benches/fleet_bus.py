"""Committed events that a relay publishes per second, to one NATS server and to a cluster of three.

Real servers on loopback, every message on disk before it is acknowledged. The events wait in a real outbox.
The alternative publishes one event after another.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg

from benches.report import Report, Row, make_row
from mint_common.bus.nats import MAX_IN_FLIGHT, NatsBus, connect_nats
from mint_common.bus.port import Message
from mint_common.errors import EventInvalid, Unavailable
from mint_common.ids import new_id
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.relay import OutboxRelay
from tests.integration.runtime.servers import make_pool
from tests.nats_cluster import make_cluster
from tests.own_servers import RunningServer, make_nats, make_postgres
from tests.testing.factories import EXAMPLES

EVENTS, ROUNDS = 400, 5
GOAL = 3.0
_WAITING = "SELECT count(*) FROM mint_outbox WHERE published_at IS NULL"


class OneByOne:
    """Publishes the next event when the one before is on disk."""

    def __init__(self, bus: NatsBus) -> None:
        self._bus = bus

    async def publish_in_order(self, messages: Sequence[Message]) -> list[EventInvalid | None]:
        """Publish."""
        for message in messages:
            await self._bus.publish(message)
        return [None] * len(messages)


def run() -> Report:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> Report:
    rates: dict[tuple[int, bool], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="mint-bus-") as folder:
        Path(folder).chmod(0o711)
        database = make_postgres(Path(folder) / "postgres")
        clusters = {1: [make_nats(Path(folder) / "nats")], 3: make_cluster(Path(folder) / "cluster")}
        servers = [database, *(server for cluster in clusters.values() for server in cluster)]
        try:
            for server in servers:
                await asyncio.to_thread(server.start)
            pool = await make_pool(database.address)
            for size, cluster in clusters.items():
                bus = await _connected(cluster)
                for each in range(2 * ROUNDS):
                    at_once = each % 2 == 1
                    rates.setdefault((size, at_once), []).append(await _rate(pool, bus, at_once=at_once))
                await bus.close()
            await pool.close()
        finally:
            for server in servers:
                server.stop()

    def draw(figure: Any) -> None:
        axes = figure.add_subplot(1, 1, 1)
        names = [
            f"{size} server{'s' * (size > 1)}\n{f'{MAX_IN_FLIGHT} at once' if many else 'one by one'}"
            for size, many in rates
        ]
        axes.bar(names, [statistics.median(found) for found in rates.values()])
        axes.set_ylabel("events/s")

    return Report(bench="fleet_bus", rows=_rows(rates), draw=draw)


async def _connected(cluster: Sequence[RunningServer]) -> NatsBus:
    """Connect once the cluster can hold a copy on each server."""
    addresses = ",".join(server.address for server in cluster)
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                return await connect_nats(addresses, name="bench", replicas=len(cluster))
            await asyncio.sleep(0.2)


async def _rate(pool: asyncpg.Pool, bus: NatsBus, *, at_once: bool) -> float:
    """Commit events, publish them by a relay, and return how many it published a second."""
    async with PostgresLedger(pool, SystemClock()).transaction(new_id("evt")) as transaction:
        for _ in range(EVENTS):
            await transaction.emit(EXAMPLES["alias.moved"])
    publisher: Any = bus if at_once else OneByOne(bus)  # Any: it has what a relay needs
    relay = asyncio.create_task(OutboxRelay(pool, publisher, SystemClock()).run())
    began = time.perf_counter()
    while await pool.fetchval(_WAITING):  # noqa: ASYNC110  # only the database knows
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - began
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    return EVENTS / seconds


def _rows(rates: dict[tuple[int, bool], list[float]]) -> list[Row]:
    one_by_one = rates[1, False]
    how = f"{EVENTS} events of an outbox, synced to disk by each server; n rounds"
    return [
        make_row(
            "relay_events_per_s",
            rates[3, True],
            unit="1/s",
            goal=None,
            better="higher",
            how=f"3 copies, up to {MAX_IN_FLIGHT} in flight; {how}",
        ),
        make_row(
            "relay_ratio_r3_over_one_by_one_r1",
            [many / one for many, one in zip(rates[3, True], one_by_one, strict=True)],
            unit="x",
            goal=GOAL,
            better="higher",
            how=f"3 copies, up to {MAX_IN_FLIGHT} in flight, over 1 copy, one by one",
        ),
        *(
            make_row(
                f"relay_ratio_r{size}",
                [many / one for many, one in zip(rates[size, True], rates[size, False], strict=True)],
                unit="x",
                goal=None,
                better="higher",
                how=f"{size} cop{'ies' if size > 1 else 'y'}: {MAX_IN_FLIGHT} in flight over one by one",
            )
            for size in (1, 3)
        ),
    ]
