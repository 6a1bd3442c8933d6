"""A tenant's user of a real NATS server hears its own tenant's events, and can do nothing else."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from nats.aio.client import Client

from mint_common.bus.nats import NatsBus, connect_nats
from mint_common.bus.port import Message
from mint_common.ids import new_id
from services.standalone.adapters.launch import Launch, free_port
from services.standalone.adapters.nats import nats_binary
from tests.own_servers import RunningServer

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "deploy/nats/tenants.py"
TENANTS = ("ten_a:ci", "ten_b:ci")
STEALING = (
    "$JS.API.STREAM.INFO.MINT",
    "$JS.API.STREAM.PURGE.MINT",
    "$JS.API.STREAM.DELETE.MINT",
    "$JS.API.STREAM.MSG.GET.MINT",
    "$JS.API.DIRECT.GET.MINT",
    "$JS.API.CONSUMER.CREATE.MINT.x",
    "$JS.API.CONSUMER.INFO.MINT.ten_b-ci",
    "$JS.API.CONSUMER.DELETE.MINT.ten_b-ci",
    "$JS.API.CONSUMER.MSG.NEXT.MINT.ten_b-ci",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    port = free_port()
    accounts = subprocess.run(
        [sys.executable, str(SCRIPT), *TENANTS], check=True, capture_output=True, text=True
    )
    (tmp_path / "tenants.conf").write_text(accounts.stdout)
    config = tmp_path / "nats.conf"
    config.write_text(
        f'listen: "127.0.0.1:{port}"\ninclude "tenants.conf"\n'
        f'jetstream {{ store_dir: "{tmp_path / "store"}", sync_interval: always }}\n'
    )
    address = f"nats://mint:secret@127.0.0.1:{port}"
    names = ("", "_TEN_A", "_TEN_B")
    launch = Launch(
        name="nats",
        argv=(str(nats_binary()), "-c", str(config)),
        ready_bus=address,
        folder=tmp_path,
        env={f"MINT_NATS_PASSWORD{name}": f"secret{name.lower()}" for name in names},
    )
    running = RunningServer(launch, address, tmp_path / "log")
    running.start()
    yield running
    running.stop()


@pytest.fixture
async def bus(server: RunningServer) -> AsyncIterator[NatsBus]:
    made = await connect_nats(server.address, name="services")
    command = [sys.executable, str(SCRIPT), *TENANTS, "--make-consumers", server.address]
    await asyncio.to_thread(subprocess.run, command, check=True)
    yield made
    await made.close()


@pytest.fixture
async def tenant(server: RunningServer) -> AsyncIterator[Client]:
    client = await nats.connect(address_of(server), allow_reconnect=False)
    yield client
    await client.close()


def address_of(server: RunningServer) -> str:
    return server.address.replace("mint:secret", "ten_a:secret_ten_a")


async def tell(bus: NatsBus, tenant: str, count: int = 1) -> list[bytes]:
    told = [f"{tenant} {number}".encode() for number in range(count)]
    for data in told:
        subject = f"mint.alias.moved.{tenant}.tiny"
        await bus.publish(Message(id=new_id("evt"), subject=subject, data=data, headers={}))
    return told


async def test_a_tenant_pulls_its_own_events_at_least_once(bus: NatsBus, tenant: Client) -> None:
    await tell(bus, "ten_b")
    mine = await tell(bus, "ten_a", 3)
    events = await tenant.jetstream().pull_subscribe_bind(consumer="ten_a-ci", stream="MINT")
    first = await events.fetch(2, timeout=30)
    for message in first:
        await message.ack_sync()
    rest = await events.fetch(5, timeout=5)
    assert [message.data for message in (*first, *rest)] == mine
    await rest[0].nak()
    (again,) = await events.fetch(1, timeout=30)
    assert again.data == mine[2]


async def test_a_tenant_listens_to_its_own_subjects_alone(bus: NatsBus, tenant: Client) -> None:
    heard: list[bytes] = []

    async def hear(message) -> None:
        heard.append(message.data)

    for subject in (">", "mint.*.*.ten_b.>", "$JS.>", "_INBOX.>"):
        await tenant.subscribe(subject, cb=hear)
    await tenant.flush()
    await tell(bus, "ten_b")
    (mine,) = await tell(bus, "ten_a")
    async with asyncio.timeout(30):
        while not heard:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.5)
    assert set(heard) == {mine}


@pytest.mark.parametrize("subject", STEALING)
async def test_a_tenant_can_ask_the_stream_for_nothing_else(
    bus: NatsBus, tenant: Client, subject: str
) -> None:
    await tell(bus, "ten_b")
    try:
        answer = await tenant.request(subject, b"{}", timeout=2)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return
    assert b"JetStream not enabled for account" in answer.data


async def test_nothing_that_a_tenant_publishes_reaches_the_stream(
    server: RunningServer, bus: NatsBus, tenant: Client
) -> None:
    await tell(bus, "ten_a", 2)
    await tenant.publish("mint.alias.moved.ten_a.tiny", b"forged")
    # A reply subject that would empty the stream, were it the stream's account that publishes to it.
    for reply in ("$JS.API.STREAM.PURGE.MINT", "$JS.API.STREAM.DELETE.MINT"):
        await tenant.publish("$JS.API.CONSUMER.MSG.NEXT.MINT.ten_a-ci", b"1", reply=reply)
    await tenant.flush()
    await asyncio.sleep(0.5)
    core = await nats.connect(server.address)
    state = (await core.jetstream().stream_info("MINT")).state
    await core.close()
    assert (state.messages, state.last_seq) == (2, 2)


async def test_without_its_password_nobody_is_let_in(server: RunningServer) -> None:
    for wrong in ("ten_a:secret", "ten_a:", "ten_b:secret_ten_a"):
        address, client = server.address.replace("mint:secret", wrong), Client()
        with pytest.raises(nats.errors.Error):
            await client.connect(address, allow_reconnect=False, connect_timeout=20)
        await client.close()  # it would leave its connection open


async def until_acked(server: RunningServer) -> None:
    """Wait until the server has heard that every message was taken."""
    core = await nats.connect(server.address)
    async with asyncio.timeout(30):
        while (await core.jetstream().consumer_info("MINT", "ten_a-ci")).num_ack_pending:
            await asyncio.sleep(0.02)
    await core.close()


async def test_the_example_goes_on_where_it_was_killed(server: RunningServer, bus: NatsBus) -> None:
    command = [sys.executable, str(ROOT / "examples/nats_subscriber.py"), "ten_a", "ci"]
    environ = {**os.environ, "NATS": address_of(server)}
    seen: list[bytes] = []
    for _ in range(2):
        told = await tell(bus, "ten_a", 2)
        process = await asyncio.create_subprocess_exec(
            *command, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = [(await process.stdout.readline()).strip() for _ in told]
        await until_acked(server)
        process.kill()
        await process.communicate()
        assert lines == told
        seen += lines
    assert len(seen) == 4
