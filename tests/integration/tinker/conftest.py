"""The Tinker API with everything real but the engine: gateway, registry, rollout and trainer of `tiny`."""

import asyncio
import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import pytest
import tinker

from services.standalone.adapters.launch import free_port
from tests.integration.tenants import api_client, make_tenant_key
from tests.own_servers import RunningServer, make_nats
from tests.processes import ServiceProcess

TOKEN = "internal"  # the tests' own secret
KEY = "tml-default-of-the-tests"
BASE = Path(__file__).parents[3] / "bases/tiny"
HOLD_SECONDS = 10.0
"""How long an operation waits for the numbers before its own."""
SERVICES = ("registry", "trainer", "rollout", "gateway")


@dataclass(kw_only=True)
class TinkerStack:
    """Where everything is, and the processes, which tests may kill."""

    environ: dict[str, str]
    ports: dict[str, int]
    folder: Path
    dsn: str
    processes: dict[str, ServiceProcess] = field(default_factory=dict)
    other_key: str = ""
    key: str = KEY

    @property
    def url(self) -> str:
        """Return the gateway's address."""
        return f"http://127.0.0.1:{self.ports['gateway']}"

    def api(self, *, key: str | None = None) -> httpx.Client:
        """Return a plain client of the Tinker API."""
        return api_client(f"{self.url}/api/v1", {"x-api-key": key or self.key}, timeout_s=60)

    def start(self, name: str) -> None:
        """Start a service and wait until it is ready."""
        self.processes[name] = ServiceProcess(name, self.environ, self.folder / f"{name}.log")
        self.processes[name].start()

    def kill(self, name: str) -> None:
        """Kill a service as a power cut would."""
        self.processes[name].kill()

    def stop(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.stop()


@pytest.fixture(scope="package")
def own_bus(server_folder: Path) -> Iterator[RunningServer]:
    """A NATS server of these services alone: two registries on one would share their messages."""
    server = make_nats(server_folder / "tinker-nats")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="package")
def stack(postgres_dsn: str, own_bus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinkerStack]:
    """Start the services; they die with the package's tests."""
    folder = tmp_path_factory.mktemp("tinker")
    dsn = asyncio.run(_fresh_database(postgres_dsn))
    ports = {name: free_port() for name in SERVICES}
    environ = {
        "MINT_POSTGRES_DSN": dsn,
        "MINT_NATS_URL": own_bus.address,
        "MINT_BLOBS_URL": f"file://{folder / 'blobs'}",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_PEERS_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}",
        "MINT_PEERS_TRAINER_URLS": f"http://127.0.0.1:{ports['trainer']}",
        "MINT_PEERS_ROLLOUT_URL": f"http://127.0.0.1:{ports['rollout']}",
        "MINT_REGISTRY_BOOTSTRAP_KEY": KEY,
        "MINT_TRAINER_BASE_DIR": str(BASE),
        "MINT_TRAINER_HOLD_SECONDS": str(HOLD_SECONDS),
        "MINT_GATEWAY_TOKENIZERS": f"tiny={BASE}",
        **{f"MINT_{name.upper()}_HTTP_PORT": str(port) for name, port in ports.items()},
    }
    stack = TinkerStack(environ=environ, ports=ports, folder=folder, dsn=dsn)
    try:
        for name in SERVICES:
            stack.start(name)
        stack.other_key = make_tenant_key(stack.url, KEY)
        yield stack
    finally:
        stack.stop()


@contextmanager
def official(stack: TinkerStack, key: str) -> Iterator[tinker.ServiceClient]:
    """The official client; it leaves connections to the garbage collector, which warns of each: here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with tinker.ServiceClient(base_url=stack.url, api_key=key) as client:
            yield client
        del client
        gc.collect()


@pytest.fixture
def service(stack: TinkerStack) -> Iterator[tinker.ServiceClient]:
    """The official client."""
    with official(stack, stack.key) as client:
        yield client


@pytest.fixture
def other_service(stack: TinkerStack) -> Iterator[tinker.ServiceClient]:
    """The official client of another tenant."""
    with official(stack, stack.other_key) as client:
        yield client


@pytest.fixture
def rest(stack: TinkerStack) -> tinker.RestClient:
    """The official client of what there is; all that are made so share connections until the process ends."""
    return tinker.RestClient(base_url=stack.url, api_key=stack.key)


@pytest.fixture(scope="package", autouse=True)
def _forgive_the_client() -> Iterator[None]:
    """Collect what is left of its connections."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


async def _fresh_database(dsn: str) -> str:
    name = f"tinker_{os.getpid()}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return dsn.rpartition("/")[0] + f"/{name}"
