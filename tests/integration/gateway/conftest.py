"""The gateway with its real neighbours: Postgres, NATS, registry and rollout; only the loader is scripted."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import pytest

from mint_common.adapters_format import build_adapter, read_base_facts, store_adapter
from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.adapters_format.names import peft_name
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.catalog import PolicyRecord, RevisionRecord
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.events import RevisionExported
from mint_common.ids import PolicyId, TenantId, new_id
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import publish_event
from services.standalone.adapters.launch import free_port
from tests.integration.gateway.scripted_loader import ScriptedLoader
from tests.integration.tenants import api_client, caller_of, make_tenant_key
from tests.processes import ServiceProcess

TOKEN = "internal"  # the tests' own secret
KEY = "tml-default-of-the-tests"
READY_SECONDS = 180.0
BASE = Path(__file__).parents[3] / "bases/tiny"
SERVICES = ("registry", "rollout", "gateway", "trainer")
"""The trainer runs for the tests that start it."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Where everything is."""

    url: str
    key: str
    other_key: str
    tenant_id: TenantId
    registry_url: str
    nats_url: str
    dsn: str
    blobs: Path
    facts: BaseFacts
    loader: ScriptedLoader
    environ: dict[str, str]
    folder: Path
    processes: dict[str, ServiceProcess] = field(default_factory=dict)

    def client(self, *, key: str | None = None) -> httpx.Client:
        """Return a client of MinT's own API."""
        headers = {"authorization": f"Bearer {key or self.key}"}
        return api_client(f"{self.url}/mint/v1", headers)

    def tinker_api(self, *, key: str | None = None) -> httpx.Client:
        """Return a plain client of the Tinker API."""
        return api_client(f"{self.url}/api/v1", {"x-api-key": key or self.key})

    def kill(self, name: str) -> None:
        """Send SIGKILL to a service."""
        self.processes[name].kill()

    def start(self, name: str) -> None:
        """Start the trainer, or a service that was killed, where it was."""
        log = self.folder / f"{name}-again.log"
        self.processes[name] = ServiceProcess(name, self.environ, log)
        self.processes[name].start()

    def make_policy(self, name: str, *, revisions: int = 0) -> PolicyRecord:
        """Create a policy, and publish revisions of it as a trainer would."""
        return asyncio.run(_make_policy(self, name, revisions))

    def move_alias(self, policy: str, alias: str, revision: int) -> None:
        """Move an alias as another gateway would."""
        asyncio.run(_move_alias(self, policy, alias, revision))

    def publish_more(self, name: str, count: int) -> None:
        """Publish further revisions of a policy."""
        asyncio.run(_publish_more(self, name, count))


async def _make_policy(stack: Stack, name: str, revisions: int) -> PolicyRecord:
    blobs = LocalBlobs(stack.blobs)
    bus = await connect_nats(stack.nats_url, name="trainer")
    async with InternalHttp(stack.registry_url, token=TOKEN) as http:
        registry = RegistryClient(http)
        policy = await registry.create_policy(
            stack.tenant_id, name=name, base=stack.facts.name, lora={"rank": 2, "alpha": 4, "seed": 0}
        )
        parent = None
        for step in range(1, revisions + 1):
            record = await _publish(stack, policy, step, parent, blobs=blobs, bus=bus, registry=registry)
            parent = record.digest
        policy = await registry.get_policy(stack.tenant_id, name)
    await bus.close()
    return policy


async def _publish_more(stack: Stack, name: str, count: int) -> None:
    bus = await connect_nats(stack.nats_url, name="trainer")
    async with InternalHttp(stack.registry_url, token=TOKEN) as http:
        registry = RegistryClient(http)
        for _ in range(count):
            policy = await registry.get_policy(stack.tenant_id, name)
            step, parent = policy.latest.number + 1, policy.latest.digest
            blobs = LocalBlobs(stack.blobs)
            await _publish(stack, policy, step, parent, blobs=blobs, bus=bus, registry=registry)
    await bus.close()


async def _move_alias(stack: Stack, policy: str, alias: str, revision: int) -> None:
    async with InternalHttp(stack.registry_url, token=TOKEN) as http:
        await RegistryClient(http).move_alias(
            caller_of(stack.tenant_id, name="another gateway"), PolicyId(policy), alias, revision=revision
        )


async def _publish(stack, policy, step, parent, *, blobs, bus, registry) -> RevisionRecord:
    random = np.random.default_rng(abs(hash((policy.policy_id, step))))
    tensors = {}
    for module, (width, height) in stack.facts.modules.items():
        tensors[peft_name(module, "A")] = random.normal(size=(2, width)).astype(np.float32)
        tensors[peft_name(module, "B")] = random.normal(size=(height, 2)).astype(np.float32)
    files = build_adapter(
        facts=stack.facts, policy_id=policy.policy_id, step=step, parent=parent, rank=2, tensors=tensors
    )
    export_id = new_id("export")
    event = RevisionExported(
        tenant_id=stack.tenant_id,
        base=stack.facts.name,
        export_id=export_id,
        policy_id=policy.policy_id,
        job_id=None,
        wave_id=None,
        digest=files.digest,
        manifest=await store_adapter(blobs, files, export_id=export_id),
        parent=parent,
        step=step,
        metrics={},
    )
    await publish_event(bus, event, cause=export_id, now=SystemClock().now())
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        found = await registry.get_policy(stack.tenant_id, policy.policy_id)
        if found.latest and found.latest.digest == files.digest:
            return await registry.get_revision(stack.tenant_id, policy.policy_id, files.digest)
        await asyncio.sleep(0.05)
    raise TimeoutError(f"revision {step} of {policy.name} was not published")


@pytest.fixture(scope="package")
def stack(postgres_dsn: str, lasting_nats, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Start registry, rollout and gateway as processes; they die with the package's tests."""
    folder = tmp_path_factory.mktemp("gateway")
    facts = read_base_facts(BASE)
    database = asyncio.run(_fresh_database(postgres_dsn))
    ports = {name: free_port() for name in (*SERVICES, "loader")}
    loader = ScriptedLoader(port=ports["loader"], token=TOKEN, base=facts.name, base_digest=facts.digest)
    loader.start()
    spooled = tempfile.mkdtemp(prefix="mint-")  # a short path: rollout's sockets lie there too
    environ = _environ(database, lasting_nats.address, folder / "blobs", ports) | {"TMPDIR": spooled}
    processes = {}
    try:
        for name in ("registry", "rollout", "gateway"):
            processes[name] = ServiceProcess(name, environ, folder / f"{name}.log")
            processes[name].start()
        tenant_id = asyncio.run(_prepare_registry(f"http://127.0.0.1:{ports['registry']}", facts))
        url = f"http://127.0.0.1:{ports['gateway']}"
        yield Stack(
            url=url,
            key=KEY,
            other_key=make_tenant_key(url, KEY),
            tenant_id=tenant_id,
            registry_url=f"http://127.0.0.1:{ports['registry']}",
            nats_url=lasting_nats.address,
            dsn=database,
            blobs=folder / "blobs",
            facts=facts,
            loader=loader,
            environ=environ,
            folder=folder,
            processes=processes,
        )
    finally:
        for process in processes.values():
            process.stop()
        loader.stop()
        shutil.rmtree(spooled, ignore_errors=True)


def _environ(dsn: str, nats_url: str, blobs: Path, ports: dict[str, int]) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("MINT_")}
    return {
        **own,
        "MINT_POSTGRES_DSN": dsn,
        "MINT_NATS_URL": nats_url,
        "MINT_BLOBS_URL": f"file://{blobs}",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_PEERS_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}",
        "MINT_PEERS_ROLLOUT_URL": f"http://127.0.0.1:{ports['rollout']}",
        "MINT_PEERS_LOADER_URLS": f"http://127.0.0.1:{ports['loader']}",
        "MINT_REGISTRY_HTTP_PORT": str(ports["registry"]),
        "MINT_REGISTRY_BOOTSTRAP_KEY": KEY,
        "MINT_REGISTRY_COLLECTION_GRACE_SECONDS": "0",
        "MINT_ROLLOUT_HTTP_PORT": str(ports["rollout"]),
        "MINT_TRAINER_HTTP_PORT": str(ports["trainer"]),
        "MINT_TRAINER_BASE_DIR": str(BASE),
        "MINT_GATEWAY_HTTP_PORT": str(ports["gateway"]),
        "MINT_GATEWAY_WEBHOOK_ALLOW_PRIVATE": "true",
        "MINT_GATEWAY_WEBHOOK_TIMEOUT_SECONDS": "1",
        "MINT_GATEWAY_WEBHOOK_FIRST_RETRY_SECONDS": "0.2",
        "MINT_GATEWAY_WEBHOOK_GIVE_UP_SECONDS": "5",
        "MINT_GATEWAY_SWITCH_SECONDS": "4",
    }


async def _prepare_registry(url: str, facts: BaseFacts) -> TenantId:
    async with InternalHttp(url, token=TOKEN) as http:
        registry = RegistryClient(http)
        await registry.put_base(facts)
        return (await registry.verify_key(KEY)).tenant_id


async def _fresh_database(dsn: str) -> str:
    name = f"gateway_{os.getpid()}"
    connection = await asyncpg.connect(dsn)
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return dsn.rpartition("/")[0] + f"/{name}"


@pytest.fixture(scope="package")
def counter(stack: Stack) -> PolicyRecord:
    """A policy with three revisions and no alias."""
    return stack.make_policy("counter", revisions=3)
