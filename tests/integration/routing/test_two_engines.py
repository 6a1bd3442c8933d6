"""Two loaders on one base behind a gateway: requests go to where their adapter is, and the truth is shown."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mint_common.adapters_format import BaseFacts, build_adapter, peft_name, read_base_facts, store_adapter
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Bus
from mint_common.catalog import RevisionRecord
from mint_common.client.directory import EngineDirectory
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.client.members import FOLLOW_SECONDS, FleetWatch
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import NotFound
from mint_common.events import RevisionExported
from mint_common.homes import engines_at_home, homes_of
from mint_common.ids import TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import publish_event
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.nats import nats_url
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.app import open_stack
from services.standalone.core.plan import BaseAt, plan_alike
from services.standalone.settings import read_standalone_settings
from tests.integration.tenants import make_tenant_key

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(400)]

BASE_DIR = Path(__file__).parents[3] / "bases" / "tiny"
SERVING = ("registry", "loader", "gateway")
SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """A serving stack of two engines and every way into it."""

    gateway: httpx.AsyncClient
    stranger: httpx.AsyncClient
    engines: dict[str, EngineClient]
    registry: RegistryClient
    tenant_id: TenantId
    bus: Bus
    blobs: LocalBlobs
    facts: BaseFacts
    token: str
    kill: Any

    async def publish(self, policy: str, seed: int) -> RevisionRecord:
        """Publish a revision as a trainer would, without anybody to prewarm it."""
        record = await self.registry.get_policy(self.tenant_id, policy)
        rng = np.random.default_rng(seed)
        tensors = {}
        for module, (width, height) in self.facts.modules.items():
            tensors[peft_name(module, "A")] = rng.standard_normal((2, width), dtype=np.float32)
            tensors[peft_name(module, "B")] = rng.standard_normal((height, 2), dtype=np.float32)
        files = build_adapter(
            facts=self.facts, policy_id=record.policy_id, step=seed, parent=None, rank=2, tensors=tensors
        )
        event = RevisionExported(
            tenant_id=self.tenant_id,
            base=self.facts.name,
            export_id=f"e{seed}",
            policy_id=record.policy_id,
            job_id=None,
            wave_id=None,
            digest=files.digest,
            manifest=await store_adapter(self.blobs, files, export_id=f"e{seed}"),
            parent=None,
            step=seed,
            metrics={},
        )
        await publish_event(self.bus, event, cause=f"e{seed}", now=time.time())

        async def published() -> RevisionRecord | None:
            with suppress(NotFound):
                return await self.registry.get_revision(self.tenant_id, record.policy_id, files.digest)
            return None

        return await until(published)

    async def complete(self, model: str) -> httpx.Response:
        """Ask for two tokens."""
        body = {"model": model, "prompt": "f ab=", "max_tokens": 2, "temperature": 0}
        return await self.gateway.post("/v1/completions", json=body)

    async def holders(self, digest: str) -> set[str]:
        """Return the engines that hold an adapter in memory, as they say themselves."""
        held = set()
        for name, engine in self.engines.items():
            for status in await engine.adapters():
                if status.digest == digest and status.tier != "stored":
                    held.add(name)
        return held


async def until(question: Any) -> Any:
    """Ask again until the answer is true, within bounds."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        answer = await question()
        if answer:
            return answer
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come true")


@pytest.fixture
async def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    overrides = {
        "MINT_LOADER_SLOTS": "2",
        "MINT_LOADER_HOST_CAPACITY": "4",
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
        **getattr(request, "param", {}),
    }
    settings = read_standalone_settings({**os.environ, **overrides})
    folder = StateFolder(root=tmp_path / "state")
    base = BaseAt(name="tiny", folder=str(BASE_DIR), plan=plan_alike(engines=2))
    async with open_stack(folder, [base], port=free_port(), settings=settings, services=SERVING) as stack:
        await stack.supervisor.all_ready()
        ports = folder.read_state().ports
        token = folder.secrets().internal_token
        http = {name: InternalHttp(f"http://127.0.0.1:{port}", token=token) for name, port in ports.items()}
        registry = RegistryClient(http["registry"])
        owner = await registry.verify_key(stack.api_key)
        key = make_tenant_key(stack.gateway_url, stack.api_key)
        bus = await connect_nats(_nats_url(folder, ports["nats"]), name="test")
        await registry.create_policy(
            owner.tenant_id, name="counter", base=base.name, lora={"rank": 2, "alpha": 4, "seed": 0}
        )

        async def kill(name: str) -> None:
            """End a loader; until the system has closed its port, a request may seem to have begun there."""
            os.kill(folder.read_run().parts[f"loader-{name}"].pid, 9)
            await until(lambda: _refuses(ports[f"loader-{name}"]))

        fleet = Fleet(
            gateway=_client(stack.gateway_url, stack.api_key),
            stranger=_client(stack.gateway_url, key),
            engines={name: EngineClient(http[f"loader-{name}"]) for name in ("tiny", "tiny-2")},
            registry=registry,
            tenant_id=owner.tenant_id,
            bus=bus,
            blobs=LocalBlobs(folder.blobs),
            facts=read_base_facts(BASE_DIR),
            token=token,
            kill=kill,
        )
        yield fleet
        await bus.close()
        for client in (fleet.gateway, fleet.stranger):
            await client.aclose()
        for each in http.values():
            await each.close()


async def _refuses(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    writer.close()
    return False


def _client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False
    )


def _nats_url(folder: StateFolder, port: int) -> str:
    return nats_url(folder.root / "nats", port)


async def test_requests_follow_the_adapter_and_the_truth_is_public(fleet: Fleet) -> None:
    revision = await fleet.publish("counter", 1)
    digest = revision.digest
    # Publishing prewarms on both engines: leave it on the one that hashing would not choose.
    await until(lambda: _all_hold(fleet, digest))
    (listed,) = {(entry["policy"], entry["number"]) for entry in await _adapters(fleet)}
    assert listed == ("counter", 1)
    for name in fleet.engines:
        await until(lambda name=name: _stays_on(fleet, digest, name))
        assert await _shown_on(fleet, digest, name)

    await _changes_are_the_tenants_own(fleet, digest)
    await _a_dead_engine_is_forgotten(fleet, digest)


async def _changes_are_the_tenants_own(fleet: Fleet, digest: str) -> None:
    """Pin, evict refused, unpin, evict, prewarm; and all of it not found for a stranger."""

    async def change(verb: str) -> httpx.Response:
        return await fleet.gateway.post(f"/mint/v1/adapters/{digest}/{verb}")

    (entry,) = [each for each in (await change("pin")).json() if each["tier"] == "slot"]
    assert entry["pinned"] is True
    assert (await change("evict")).status_code == 412
    assert (await change("unpin")).status_code == 200
    evicted = (await change("evict")).json()
    assert {each["tier"] for each in evicted} == {"stored"}
    assert (await change("evict")).status_code == 404
    prewarmed = (await change("prewarm")).json()
    assert "slot" in {each["tier"] for each in prewarmed}
    listed = (await fleet.gateway.get("/mint/v1/adapters/changes", params={"policy": "counter"})).json()
    latest = [each for each in listed if each["digest"] == digest]
    assert [each["at"] for each in latest] == sorted((each["at"] for each in latest), reverse=True)
    assert [each["change"] for each in latest[:2]] == ["loaded", "evicted"]
    assert latest[0]["load_seconds"] > 0
    assert (await fleet.gateway.get("/mint/v1/adapters/changes", params={"policy": "other"})).json() == []
    assert (await fleet.stranger.get("/mint/v1/adapters/changes")).json() == []
    for verb in ("pin", "unpin", "evict", "prewarm"):
        refused = await fleet.stranger.post(f"/mint/v1/adapters/{digest}/{verb}")
        assert refused.status_code == 404, refused.text
    assert (await fleet.stranger.get("/mint/v1/adapters")).json() == []
    engines = (await fleet.gateway.get("/mint/v1/engines")).json()
    assert [engine["load"]["in_host"] for engine in engines] in ([0, 1], [1, 0])


async def _a_dead_engine_is_forgotten(fleet: Fleet, digest: str) -> None:
    (holder,) = await fleet.holders(digest)
    await fleet.kill(holder)
    answer = await fleet.complete("counter@1")  # passed on to the other engine, which loads it
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-mint-revision"] == digest


async def _adapters(fleet: Fleet) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = (await fleet.gateway.get("/mint/v1/adapters")).json()
    return listed


async def _all_hold(fleet: Fleet, digest: str) -> bool:
    return await fleet.holders(digest) == set(fleet.engines)


async def _shown_on(fleet: Fleet, digest: str, name: str) -> bool:
    shown = [entry for entry in await _adapters(fleet) if entry["digest"] == digest]
    return {each["engine_id"] for each in shown if each["tier"] != "stored"} == {f"engine-{name}"}


async def _stays_on(fleet: Fleet, digest: str, name: str) -> bool:
    """Say whether requests find the adapter where it is; once the gateway has heard of it they must."""
    await _leave_on(fleet, digest, name)
    answers = await asyncio.gather(*(fleet.complete("counter@1") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-mint-revision"] for answer in answers} == {digest}
    return await fleet.holders(digest) == {name}


async def _leave_on(fleet: Fleet, digest: str, name: str) -> None:
    """Have exactly one engine hold the adapter."""
    revision = await fleet.registry.get_revision(fleet.tenant_id, "counter", digest)
    await fleet.engines[name].prewarm(revision.ref, tenant_id=fleet.tenant_id)
    for other, engine in fleet.engines.items():
        if other != name and other in await fleet.holders(digest):
            await engine.change(digest, "evict", tenant_id=fleet.tenant_id)


async def test_engines_are_found_without_a_list_of_addresses(fleet: Fleet) -> None:
    engines, trainers = EngineDirectory([], token=fleet.token), TrainerDirectory([], token=fleet.token)
    watch = asyncio.create_task(FleetWatch(fleet.registry, engines, trainers, SystemClock()).run())

    async def known(count: int) -> bool:
        return len(await engines.engines()) == count

    await until(lambda: known(2))
    members = [each for each in await fleet.registry.members() if each.kind == "loader"]
    assert [(each.member_id, each.takes_requests) for each in members] == [
        ("engine-tiny", True),
        ("engine-tiny-2", True),
    ]
    (before,) = (each for each in members if each.member_id == "engine-tiny-2")
    assert (await engines.limits(fleet.facts.name)).max_context > 0
    await fleet.kill("tiny-2")  # the supervisor starts it again

    async def is_back() -> bool:
        found = {each.member_id: each for each in await fleet.registry.members()}
        return found["engine-tiny-2"].takes_requests and found["engine-tiny-2"].epoch != before.epoch

    assert (await engines.find(fleet.facts.name)) in engines.clients()
    await until(is_back)
    await until(lambda: known(2))
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    await engines.aclose()
    await trainers.aclose()


ONE_HOME = {"MINT_LOADER_PREWARM_HOMES": "1", "MINT_LOADER_HOST_CAPACITY": "16"}


@pytest.mark.parametrize("fleet", [ONE_HOME], indirect=True)
async def test_a_revision_is_loaded_ahead_by_its_homes_alone(fleet: Fleet) -> None:
    async def both_are_ready() -> bool:
        return len(engines_at_home(await fleet.registry.members(), fleet.facts.name)) == 2

    await until(both_are_ready)
    await asyncio.sleep(2 * FOLLOW_SECONDS)  # each engine has read so as well
    engines = engines_at_home(await fleet.registry.members(), fleet.facts.name)
    names = {f"engine-{name}": name for name in fleet.engines}
    expected = {}
    for seed in range(1, 9):
        digest = (await fleet.publish("counter", seed)).digest
        expected[digest] = {names[home] for home in homes_of(digest, engines, count=1)}

        async def is_held(digest: str = digest) -> bool:
            return bool(await fleet.holders(digest))

        await until(is_held)
    await asyncio.sleep(1.0)
    assert {digest: await fleet.holders(digest) for digest in expected} == expected
    assert {name for homes in expected.values() for name in homes} == set(fleet.engines)
    answer = await fleet.complete("counter@8")
    assert answer.status_code == 200, answer.text
    assert await fleet.holders(digest) == expected[digest], "the request went to the home"
