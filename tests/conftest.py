"""Real servers for tests: Postgres, NATS JetStream and S3, each started once per run on loopback."""

import asyncio
import contextlib
import gc
import itertools
import os
import random
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import botocore.exceptions
import botocore.session
import hypothesis
import pytest
from blocking import SUITES, blocking_calls_fail
from clients.recording import pytest_runtest_makereport  # noqa: F401  # a hook of pytest's
from e2e.stack import RunningStack, start_stack
from s3_server import ACCESS_KEY, SECRET_KEY, S3Ports, s3_launch
from span_receiver import OtlpReceiver
from spreading import (  # noqa: F401  # hooks of pytest's
    is_on_whole_stack,
    pytest_collection_modifyitems,
    pytest_xdist_make_scheduler,
)

from mint_common.runtime.importing import without_collections
from tests.own_servers import READY_SECONDS, RunningServer, make_nats, make_postgres

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_MAX_STOP_STRINGS", "16")  # read when a test first imports vLLM's requests

# How long an example takes says more of what else the machine does; pytest's own time-out still holds.
hypothesis.settings.register_profile("mint", deadline=None)
hypothesis.settings.load_profile("mint")

_WHOLE_STACK = pytest.StashKey[RunningStack]()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are collected, nor look through what they have imported ever again.

    A million objects stay until the end: each full collection of garbage would take half a second.
    """
    with without_collections():
        return (yield)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the shared stack after the last test that may use it: it works even when it is idle."""
    if nextitem is None or not is_on_whole_stack(nextitem.nodeid):
        _stop_whole_stack(item.config)


def _stop_whole_stack(config: pytest.Config) -> None:
    running = config.stash.get(_WHOLE_STACK, None)
    if running is not None:
        running.stop()


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """Where the S3 server is and how to sign in."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str


def _running(server: RunningServer) -> Iterator[RunningServer]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module", autouse=True)
def _blocking_calls_fail(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep event loops free: a call of ours that blocks one is an error."""
    with blocking_calls_fail() if request.node.nodeid.startswith(SUITES) else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def stack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for state folders."""
    return tmp_path_factory.mktemp("stack")


@pytest.fixture(scope="session")
def traces() -> Iterator[OtlpReceiver]:
    """What the services of `whole_stack` tell of what they do."""
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="session")
def whole_stack(
    pytestconfig: pytest.Config, stack_folder: Path, traces: OtlpReceiver
) -> Iterator[RunningStack]:
    """`mint up` as a user starts it, for the tests that leave it in order."""
    settings = {"MINT_TELEMETRY_OTLP_ENDPOINT": traces.endpoint}
    running = start_stack(stack_folder / "shared", settings)
    pytestconfig.stash[_WHOLE_STACK] = running
    yield running
    running.stop()


@pytest.fixture(scope="session")
def server_folder() -> Iterator[Path]:
    """A folder that the servers' user can pass: Postgres refuses to run as root.

    Not below pytest's own: every other pytest that starts closes that one to all but its user.
    """
    with tempfile.TemporaryDirectory(prefix="mint-test-servers-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture(scope="session")
def postgres_server(server_folder: Path) -> Iterator[RunningServer]:
    """The shared Postgres server; a test that kills servers makes its own with `own_postgres`."""
    yield from _running(make_postgres(server_folder / "postgres"))


@pytest.fixture(scope="session")
def postgres_dsn(postgres_server: RunningServer) -> str:
    """The superuser's connection string."""
    return postgres_server.address


@pytest.fixture(scope="session")
def nats_server(server_folder: Path) -> Iterator[RunningServer]:
    """The shared NATS server."""
    yield from _running(make_nats(server_folder / "nats"))


@pytest.fixture(scope="session")
def lasting_nats(server_folder: Path) -> Iterator[RunningServer]:
    """A NATS server for services that outlive a test: on the shared one they would take its messages."""
    yield from _running(make_nats(server_folder / "lasting-nats"))


@pytest.fixture
def nats_url(nats_server: RunningServer) -> str:
    """The address of a NATS server with JetStream, without streams of earlier tests."""
    asyncio.run(_wipe(nats_server.address))
    return nats_server.address


async def _wipe(url: str) -> None:
    import nats

    client = await nats.connect(url)
    jetstream = client.jetstream()
    for stream in await jetstream.streams_info():
        name = stream.config.name or ""
        await jetstream.purge_stream(name)  # a server under load has shown the messages of a deleted stream
        await jetstream.delete_stream(name)
    assert await jetstream.streams_info() == []
    await client.close()


@pytest.fixture
def own_postgres(server_folder: Path) -> Iterator[RunningServer]:
    """A Postgres server of this test alone, to be killed at will."""
    yield from _running(make_postgres(_fresh(server_folder, "own-postgres")))


@pytest.fixture
def own_nats(server_folder: Path) -> Iterator[RunningServer]:
    """A NATS server of this test alone, to be killed at will."""
    yield from _running(make_nats(_fresh(server_folder, "own-nats")))


_COUNTER = itertools.count()


def _fresh(folder: Path, name: str) -> Path:
    return folder / f"{name}-{next(_COUNTER)}"


@pytest.fixture
def database(postgres_dsn: str) -> Iterator[str]:
    """The address of a fresh, empty database."""
    name, address = _create_database(postgres_dsn)
    yield address
    asyncio.run(_execute(postgres_dsn, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture(scope="session")
def shared_database(postgres_dsn: str) -> str:
    """The address of a database in which each test first empties the schema that it uses."""
    return _create_database(postgres_dsn)[1]


def _create_database(postgres_dsn: str) -> tuple[str, str]:
    """Return the name and the address of a new database."""
    name = f"test_{os.getpid()}_{next(_COUNTER)}"
    asyncio.run(_execute(postgres_dsn, f"CREATE DATABASE {name}"))
    return name, postgres_dsn.rpartition("/")[0] + f"/{name}"


async def _execute(dsn: str, statement: str) -> None:
    connection = await _connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _connect(dsn: str) -> asyncpg.Connection:
    """Connect as soon as the server that listens already takes connections."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            return await asyncpg.connect(dsn)
        except asyncpg.CannotConnectNowError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


@pytest.fixture(scope="session")
def s3_server(server_folder: Path) -> Iterator[S3Server]:
    """A real S3 server with one bucket."""
    pick: Callable[[], int] = _low_free_port
    ports = S3Ports(s3=pick(), master=pick(), volume=pick(), filer=pick(), admin=pick())
    folder = server_folder / "s3"
    launch = s3_launch(folder, ports, bucket="mint-test")
    for server in _running(RunningServer(launch, f"http://127.0.0.1:{ports.s3}", folder / "log")):
        _await_bucket(server.address, "mint-test")
        yield S3Server(
            endpoint=server.address, access_key=ACCESS_KEY, secret_key=SECRET_KEY, bucket="mint-test"
        )


def _await_bucket(endpoint: str, bucket: str) -> None:
    """Wait until the bucket is there: the port answers before it is made."""
    session = botocore.session.get_session()
    client = session.create_client(
        "s3",
        region_name="us-east-1",
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )
    deadline = time.monotonic() + READY_SECONDS
    with contextlib.closing(client):
        while time.monotonic() < deadline:
            with contextlib.suppress(botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError):
                client.head_bucket(Bucket=bucket)
                return
            time.sleep(0.1)
    raise RuntimeError("the S3 server did not show its bucket")


def _low_free_port() -> int:
    """Return a free port whose gRPC twin (+10000) is free too.

    Both are below 32768, where the system begins to give ports to whoever asks for any.
    """
    while True:
        port = random.randrange(20000, 22700)
        try:
            for candidate in (port, port + 10000):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", candidate))
        except OSError:
            continue
        return port


@pytest.fixture
def tinker_warnings() -> Iterator[None]:
    """Tinker's client leaves its connections to the garbage collector, which warns of each: here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()
