"""A primary and its hot standby: what is committed survives the primary's end."""

import asyncio
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

from mint_common.errors import AlreadyHandled, Unavailable
from mint_common.runtime import postgres
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import open_pool
from mint_common.runtime.postgres_hosts import HostChoice, one_host_each
from mint_common.runtime.relay import OutboxRelay
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.privileges import child_setup
from tests.integration.runtime.servers import make_pool
from tests.own_servers import RunningServer
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import EXAMPLES

pytestmark = pytest.mark.integration
CLOCK = SystemClock()


def start_standby(primary: RunningServer) -> RunningServer:
    """Copy a running primary and follow it. Its commits wait for the standby from then on."""
    folder = primary.launch.folder.with_name("standby")
    folder.mkdir(mode=0o755)
    program, *arguments = primary.launch.argv
    binaries = Path(program).parent
    if primary.launch.run_as is not None:
        folder.chmod(0o777)
    copied = subprocess.run(
        [
            str(binaries / "pg_basebackup"),
            "-D",
            str(folder / "data"),
            "-d",
            primary.address,
            "-R",
            "-c",
            "fast",
        ],
        preexec_fn=child_setup(primary.launch.run_as, parent=None),  # as the server's user
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert copied.returncode == 0, copied.stderr
    port, first = free_port(), primary.address.rpartition(":")[2].partition("/")[0]
    data = str(primary.launch.folder / "data")
    changed = [
        str(folder / "data") if part == data else part.replace(f"port={first}", f"port={port}")
        for part in arguments
    ]
    address = primary.address.replace(f":{first}/", f":{port}/")
    launch = replace(primary.launch, argv=(program, *changed), ready_dsn=address, folder=folder)
    standby = RunningServer(launch, address, folder / "log")
    standby.start()
    return standby


async def in_step(primary: RunningServer) -> None:
    """Make commits wait for the standby, and wait until it follows."""
    session = await asyncpg.connect(primary.address)
    await session.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
    await session.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while (
            await session.fetchval("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") != 1
        ):
            await asyncio.sleep(0.05)
    await session.close()


async def promote(standby: RunningServer) -> None:
    session = await asyncpg.connect(standby.address)
    assert await session.fetchval("SELECT pg_promote()")
    await session.close()


async def commit(ledger: PostgresLedger, number: int) -> None:
    while True:
        try:
            async with ledger.transaction(f"cause-{number}") as transaction:
                await transaction.emit(replace(EXAMPLES["alias.moved"], sequence=number))
        except AlreadyHandled:
            return
        except Unavailable:
            await asyncio.sleep(0.05)
        else:
            return


def both(primary: RunningServer, standby: RunningServer) -> str:
    """Return the DSN of both."""
    start, _, hosts = primary.address.rpartition("@")
    other = standby.address.rpartition("@")[2].partition("/")[0]
    return f"{start}@{other},{hosts}"


async def test_a_pool_goes_on_at_the_promoted_standby_and_loses_no_commit(
    own_postgres: RunningServer,
) -> None:
    standby = await asyncio.to_thread(start_standby, own_postgres)
    await in_step(own_postgres)
    pool = await make_pool(both(own_postgres, standby))
    ledger, bus = PostgresLedger(pool, CLOCK), MemoryBus(CLOCK)
    relay = asyncio.create_task(OutboxRelay(pool, bus, CLOCK).run())
    gap = 0.0
    for number in range(60):
        began = time.monotonic()
        if number == 30:
            own_postgres.kill()
            promoting = asyncio.create_task(promote(standby))
        await commit(ledger, number)
        gap = max(gap, time.monotonic() - began)
    await promoting
    assert gap < 15
    async with asyncio.timeout(20):
        while len(bus.messages) < 60:
            await asyncio.sleep(0.05)
    kept = await pool.fetch("SELECT cause FROM mint_inbox")
    assert {row["cause"] for row in kept} == {f"cause-{number}" for number in range(60)}
    relay.cancel()
    await asyncio.gather(relay, return_exceptions=True)
    await pool.close()
    standby.stop()


async def test_a_silent_host_does_not_use_up_the_time_of_the_next(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # nobody accepts: connected, but without an answer
        port = silent.getsockname()[1]
        start, _, hosts = database.rpartition("@")
        pool = await open_pool(f"{start}@127.0.0.1:{port},{hosts}", schema="registry")
        assert await pool.fetchval("SELECT 1") == 1
        began = time.monotonic()
        async with pool.acquire(), pool.acquire():
            pass
        assert time.monotonic() - began < 0.4  # new connections begin with the host that answered
        await pool.close()


async def test_a_connection_that_is_still_trying_goes_on_to_the_host_that_another_has_found(
    database: str,
) -> None:
    start, _, hosts = database.rpartition("@")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        choice = HostChoice(f"{start}@127.0.0.1:{silent.getsockname()[1]},{hosts}")
        first = asyncio.create_task(choice.connect(timeout=1.0))
        await asyncio.sleep(0.4)
        second = asyncio.create_task(choice.connect(timeout=1.0))  # fails at the silent one after the first
        for connection in await asyncio.gather(first, second):
            await connection.close()


def test_a_dsn_of_several_hosts_wants_the_one_that_takes_writes() -> None:
    assert one_host_each("postgresql://u:p%2Cq@a:1,b:2/mint?sslmode=require") == [
        "postgresql://u:p%2Cq@a:1/mint?sslmode=require&target_session_attrs=read-write",
        "postgresql://u:p%2Cq@b:2/mint?sslmode=require&target_session_attrs=read-write",
    ]
    assert one_host_each("postgresql://u@a,b/mint?target_session_attrs=any")[1].endswith(
        "b/mint?target_session_attrs=any"
    )
    assert one_host_each("postgresql://u:p@a/mint") == ["postgresql://u:p@a/mint"]
