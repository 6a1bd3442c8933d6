"""`python -m services.registry`, asked through `RegistryClient`, killed and stopped."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from mint_common.adapters_format import store_adapter
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.catalog import AliasMove, RevisionRecord
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.errors import MintError, NoRevision, NotFound, PreconditionFailed, Unauthorized
from mint_common.events import RevisionExported
from mint_common.ids import PolicyId
from mint_common.runtime.dispatch import publish_event
from services.standalone.adapters.launch import free_port
from tests.integration.registry.rig import BASE, KEY, TENANT, TOKEN
from tests.integration.tenants import caller_of
from tests.processes import ROOT, ServiceProcess
from tests.testing.adapters import make_adapter

pytestmark = pytest.mark.integration

READY_SECONDS = 180.0


@pytest.fixture
def process(database: str, nats_url: str, tmp_path: Path) -> Iterator[ServiceProcess]:
    environ = {
        "MINT_NATS_URL": nats_url,
        "MINT_POSTGRES_DSN": database,
        "MINT_BLOBS_URL": (tmp_path / "blobs").as_uri(),
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_REGISTRY_HTTP_PORT": str(free_port()),
        "MINT_REGISTRY_BOOTSTRAP_KEY": KEY,
    }
    made = ServiceProcess("registry", environ, tmp_path / "log")
    made.start()
    yield made
    if made.is_running:
        made.kill()


@pytest.fixture
async def client(process: ServiceProcess) -> AsyncIterator[RegistryClient]:
    async with InternalHttp(process.url, token=TOKEN) as http:
        yield RegistryClient(http)


async def new_policy(client: RegistryClient) -> PolicyId:
    await client.put_base(BASE)
    made = await client.create_policy(
        TENANT, name="p", base=BASE.name, lora={"rank": 2, "alpha": 4.0, "seed": 1}
    )
    return made.policy_id


async def export(nats_url: str, blobs: LocalBlobs, policy_id: PolicyId, *, first: int, last: int) -> None:
    bus = await connect_nats(nats_url, name="trainer")
    for step in range(first, last + 1):
        files = make_adapter(BASE, policy_id=policy_id, step=step, seed=step)
        event = RevisionExported(
            tenant_id=TENANT,
            base=BASE.name,
            export_id=f"direct_{step}",
            policy_id=policy_id,
            job_id=None,
            wave_id=None,
            digest=files.digest,
            manifest=await store_adapter(blobs, files, export_id=f"direct_{step}"),
            parent=None,
            step=step,
            metrics={},
        )
        await publish_event(bus, event, cause="test", now=0.0)
    await bus.close()


async def revisions_of(client: RegistryClient, policy: str) -> list[RevisionRecord]:
    path = ("tenants", TENANT, "policies", policy, "revisions")
    _, content = await client.forward("GET", path, caller_of(TENANT))
    return msgspec.json.decode(content, type=list[RevisionRecord])


async def until_numbered(client: RegistryClient, policy_id: PolicyId, count: int) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while len(await revisions_of(client, policy_id)) < count:
            await asyncio.sleep(0.02)


async def test_client_asks_what_services_ask(
    client: RegistryClient, nats_url: str, tmp_path: Path, process: ServiceProcess
) -> None:
    owner = await client.verify_key(KEY)
    assert owner.tenant_id == TENANT
    with pytest.raises(Unauthorized):
        await client.verify_key("tml-wrong")
    key = await client.get_key(TENANT, owner.key_id)
    assert (key.key_id, key.revoked_at, key.scopes) == (owner.key_id, None, owner.scopes)
    with pytest.raises(NotFound):
        await client.get_key("another", owner.key_id)
    policy_id = await new_policy(client)
    assert await client.get_base(BASE.name) == BASE
    assert await client.list_bases() == [BASE]
    with pytest.raises(NoRevision):
        await client.resolve(TENANT, "p")
    await export(nats_url, LocalBlobs(tmp_path / "blobs"), policy_id, first=1, last=2)
    await until_numbered(client, policy_id, 2)
    one, two = await revisions_of(client, "p")
    assert (await client.get_policy(TENANT, "p")).latest == two.ref
    assert await client.get_revision(TENANT, "p", two.digest) == two

    ann = caller_of(TENANT)
    await client.move_alias(ann, "p", "prod", revision=two.digest, cause="a job")
    await client.move_alias(ann, "p", "prod", revision=1, reason="worse")
    await client.move_alias(ann, "p", "prod", revision=two.digest, cause="a job")  # it has moved it before
    path = ("tenants", TENANT, "policies", "p", "aliases", "prod")
    with pytest.raises(PreconditionFailed):
        await client.forward("PUT", path, ann, body=b'{"revision": 2, "expected": ""}')
    _, content = await client.forward("GET", (*path, "history"), ann, query=[("limit", "1")])
    moves = msgspec.json.decode(content, type=list[AliasMove])
    assert [(move.number, move.actor, move.reason) for move in moves] == [(1, "ann", "worse")]
    assert [item.alias for item in await client.list_aliases(TENANT, "p")] == ["prod"]
    await client.move_alias(ann, "p", "next", revision=1)
    (names,) = await client.list_names(TENANT, limit=9)
    assert (names.name, names.latest, names.aliases) == ("p", 2, {"next": 1, "prod": 1})
    with pytest.raises(MintError, match="ann has moved it since the job ended"):
        await client.move_alias(replace(ann, name="job:a"), "p", "next", revision=2, decided_at=1.5)
    assert [owned.policy for owned in await client.find_owned(TENANT, [one.digest])] == ["p"]
    resolution = await client.resolve(TENANT, "p")
    assert resolution.revision == one.ref
    with pytest.raises(NotFound, match="canary"):
        await client.resolve(TENANT, "p@canary")

    metrics = httpx.get(f"{process.url}/metrics", trust_env=False).text
    assert "mint_registry_http_request_seconds" in metrics
    assert TENANT not in metrics


async def test_kill_in_the_middle_of_exports_loses_and_repeats_nothing(
    client: RegistryClient, process: ServiceProcess, nats_url: str, tmp_path: Path
) -> None:
    policy_id = await new_policy(client)
    blobs = LocalBlobs(tmp_path / "blobs")
    await export(nats_url, blobs, policy_id, first=1, last=12)
    for reached in (1, 4, 8):
        await until_numbered(client, policy_id, reached)
        process.kill()
        process.start()
    await until_numbered(client, policy_id, 12)
    revisions = await revisions_of(client, policy_id)
    assert [revision.number for revision in revisions] == list(range(1, 13))
    assert {revision.step for revision in revisions} == set(range(1, 13))


def test_registry_stops_clean_when_told(process: ServiceProcess) -> None:
    started = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - started < 30


def test_wrong_setting_is_told_in_one_line(process: ServiceProcess) -> None:
    environ = {**process.env, "MINT_REGISTRY_BOOTSTRAP_KEY": "short"}
    run = subprocess.run(
        process.argv, env=environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2
    assert "MINT_REGISTRY_BOOTSTRAP_KEY" in run.stdout + run.stderr
    assert "short" not in run.stdout + run.stderr
