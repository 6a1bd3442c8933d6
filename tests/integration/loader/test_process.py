"""The loader as a process: it registers its base, follows events, dies with its engine, and loses nothing."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import numpy as np
import psutil
import pytest

from mint_common.adapters_format import (
    MANIFEST_FILE,
    WEIGHTS_FILE,
    BaseFacts,
    build_adapter,
    peft_name,
    store_adapter,
)
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Message
from mint_common.claims import RevisionRef
from mint_common.client.directory import EngineDirectory
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.errors import EngineRestarting, MintError
from mint_common.events import AdapterFailed, AdapterLoaded, RevisionPublished
from mint_common.events.codec import decode
from mint_common.events.event import Event
from mint_common.events.subjects import subjects_of
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.runtime.dispatch import publish_event
from services.standalone.adapters.launch import free_port
from tests.processes import ROOT, ServiceProcess, until_ended

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.timeout(900)]

BASE_DIR = ROOT / "bases" / "tiny"
TOKEN = "internal"
TENANT = TenantId("t")


async def published(blobs: LocalBlobs, facts: BaseFacts, *, seed: int) -> RevisionPublished:
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (width, height) in facts.modules.items():
        tensors[peft_name(module, "A")] = rng.standard_normal((2, width), dtype=np.float32) * np.float32(0.1)
        tensors[peft_name(module, "B")] = rng.standard_normal((height, 2), dtype=np.float32)
    files = build_adapter(
        facts=facts, policy_id=PolicyId("pol"), step=seed, parent=None, rank=2, tensors=tensors
    )
    manifest = await store_adapter(blobs, files, export_id=f"e{seed}")
    return RevisionPublished(
        tenant_id=TENANT,
        base=facts.name,
        export_id=f"e{seed}",
        policy_id=PolicyId("pol"),
        job_id=None,
        wave_id=None,
        revision=RevisionRef(digest=files.digest, number=seed, manifest=manifest),
        parent=None,
        step=seed,
        metrics={},
    )


async def following(messages: AsyncIterator[Message]) -> Event:
    async with asyncio.timeout(60):
        return decode((await anext(messages)).data)[1]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a loader and its registry run, and how to reach them."""

    environ: dict[str, str]
    folder: Path
    nats_url: str
    registry_url: str
    loader_url: str
    loader: EngineClient
    blobs: LocalBlobs
    facts: BaseFacts

    def running_loader(self, *, silence_seconds: int) -> AbstractAsyncContextManager[subprocess.Popen[bytes]]:
        """Run the loader, which is ready when the block begins, until the block ends."""
        silence = {"MINT_LOADER_ENGINE_SILENCE_SECONDS": str(silence_seconds)}
        return ServiceProcess("loader", self.environ | silence, self.folder / "loader.log").running()


@pytest.fixture
async def place(tmp_path: Path, nats_url: str, database: str, facts: BaseFacts) -> AsyncIterator[Place]:
    """Run a registry; a test runs the loader."""
    registry_url, loader_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    shared = {
        "MINT_NATS_URL": nats_url,
        "MINT_BLOBS_URL": f"file://{tmp_path}/blobs",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_POSTGRES_DSN": database,
    }
    loader = {
        "MINT_PEERS_REGISTRY_URL": registry_url,
        "MINT_LOADER_HTTP_PORT": loader_url.rpartition(":")[2],
        "MINT_LOADER_ENGINE_ID": "tiny-9",
        "MINT_LOADER_BASE_DIR": str(BASE_DIR),
        "MINT_LOADER_CACHE_DIR": str(tmp_path / "cache"),
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
    }
    registry = shared | {"MINT_REGISTRY_HTTP_PORT": registry_url.rpartition(":")[2]}
    async with (
        InternalHttp(loader_url, token=TOKEN) as http,
        ServiceProcess("registry", registry, tmp_path / "registry.log").running(),
    ):
        yield Place(
            environ=shared | loader,
            folder=tmp_path,
            nats_url=nats_url,
            registry_url=registry_url,
            loader_url=loader_url,
            loader=EngineClient(http),
            blobs=LocalBlobs(tmp_path / "blobs"),
            facts=facts,
        )


@pytest.mark.slow
async def test_the_loader_follows_events_and_loses_nothing_when_its_engine_is_killed_or_hangs(
    place: Place, database: str
) -> None:
    """In the middle of loads: nothing that was held, asked or told is lost."""
    directory = EngineDirectory([place.loader_url], token=TOKEN)
    async with place.running_loader(silence_seconds=60) as loader:
        async with InternalHttp(place.registry_url, token=TOKEN) as http:
            assert await RegistryClient(http).get_base(place.facts.name) == place.facts
        held = await _follow(place)
        await place.loader.change(held.digest, "pin", tenant_id=TENANT)
        await saved(database, held.digest, pinned=True)
        await directory.describe(place.facts.name)
        processes = psutil.Process(loader.pid).children(recursive=True)
        async with in_the_middle_of_loads(place, loader, seeds=(11, 12)) as (told, asked):
            engine_of(loader).send_signal(signal.SIGKILL)
        assert await asyncio.to_thread(loader.wait, 60) != 0
        with pytest.raises(EngineRestarting, match="is restarting: try again in"):
            await directory.sample(place.facts.name, request_for(held))
        await until_ended(processes)

    # The supervisor starts it again: it holds what it held, though nobody asks and NATS says nothing new.
    async with place.running_loader(silence_seconds=10) as loader:
        assert (await directory.sample(place.facts.name, request_for(asked))).revision == asked.digest
        await become_ready(place.loader, {held.digest, told.digest})
        await become_pinned(place.loader, held.digest)
        assert not (await place.loader.adapter(told.digest)).pinned
        processes = psutil.Process(loader.pid).children(recursive=True)
        async with in_the_middle_of_loads(place, loader, seeds=(13, 14)) as (later, last):
            pass  # the engine hangs, until the loader has heard nothing of it for too long
        assert await asyncio.to_thread(loader.wait, 60) != 0
        await until_ended(processes)

    async with place.running_loader(silence_seconds=60):
        await answer(place.loader, last)
        await become_ready(place.loader, {held.digest, told.digest, later.digest})
    await directory.aclose()


@asynccontextmanager
async def in_the_middle_of_loads(
    place: Place, loader: subprocess.Popen[bytes], *, seeds: tuple[int, int]
) -> AsyncIterator[tuple[RevisionRef, RevisionRef]]:
    """Stop the engine while it is to load two adapters: one that is told of, and one that is asked for.

    When the block has ended, who asked must be refused and may try again.
    """
    told, asked = [await published(place.blobs, place.facts, seed=seed) for seed in seeds]
    engine_of(loader).suspend()  # so that the loads are in the middle for as long as it takes to see it
    bus = await connect_nats(place.nats_url, name="test")
    await publish_event(bus, told, cause="test", now=time.time())
    await bus.close()
    request = asyncio.create_task(answer(place.loader, asked.revision))
    for digest in (told.revision.digest, asked.revision.digest):
        await in_the_middle(place, digest)
    # A prewarm is a hint: a restart brings back what was saved.
    await saved(place.environ["MINT_POSTGRES_DSN"], told.revision.digest, pinned=False)
    yield told.revision, asked.revision
    with pytest.raises(MintError) as refusal:
        await request
    assert refusal.value.retryable


def engine_of(loader: subprocess.Popen[bytes]) -> psutil.Process:
    children = psutil.Process(loader.pid).children(recursive=True)
    (engine,) = [child for child in children if "EngineCore" in child.name()]
    return engine


async def in_the_middle(place: Place, digest: Digest) -> None:
    """Wait until an adapter's files are here and it is for the engine, which stands still, to go on."""
    manifest = place.folder / "cache" / digest.removeprefix("sha256:") / MANIFEST_FILE
    on_its_way = {"fetching", "staged", "activating"}
    async with asyncio.timeout(30):
        while (await place.loader.adapter(digest)).state not in on_its_way or not manifest.exists():
            await asyncio.sleep(0.02)


def request_for(revision: RevisionRef) -> SampleRequest:
    return SampleRequest(
        request_id=f"r{revision.number}",
        tenant_id=TENANT,
        revision=revision,
        tokens=(5, 9, 12, 7),
        sampling=Sampling(max_new_tokens=4, temperature=0.0, ignore_eos=True),
    )


async def answer(client: EngineClient, revision: RevisionRef) -> None:
    """Ask for a revision, and see that it answers."""
    sampled = await client.sample(request_for(revision))
    assert sampled.revision == revision.digest
    assert sampled.sequences[0].reason == "length"


async def become_ready(client: EngineClient, digests: set[Digest]) -> None:
    """Wait until adapters are ready that nobody asks for any more."""
    async with asyncio.timeout(60):
        while not digests <= {each.digest for each in await client.adapters() if each.readiness == "ready"}:
            await asyncio.sleep(0.1)


async def become_pinned(client: EngineClient, digest: Digest) -> None:
    """Wait until a pinned adapter is in its slot: it is ready in the host's memory before."""
    async with asyncio.timeout(60):
        while True:
            status = await client.adapter(digest)
            if status.pinned and status.tier == "slot":
                return
            await asyncio.sleep(0.05)


async def saved(dsn: str, digest: Digest, *, pinned: bool) -> None:
    """Wait until an adapter is in the stored working set."""
    connection = await asyncpg.connect(dsn)
    query = "SELECT true FROM loader.working_set WHERE digest = $1 AND pinned = $2"
    async with asyncio.timeout(20):
        while not await connection.fetchval(query, digest, pinned):
            await asyncio.sleep(0.05)
    await connection.close()


async def _follow(place: Place) -> RevisionRef:
    """Publish a good and a bad revision, and ask for the good one; return it."""
    good, bad = [await published(place.blobs, place.facts, seed=seed) for seed in (1, 2)]
    weights = bad.revision.manifest.uri.replace(MANIFEST_FILE, WEIGHTS_FILE)
    await place.blobs.put(weights, b"not an adapter")
    other = replace(good, base="other", export_id="e9")  # of another base: not for this loader
    bus = await connect_nats(place.nats_url, name="test")
    news = [subjects_of(AdapterLoaded), subjects_of(AdapterFailed)]
    async with bus.watch(subjects=news) as messages:
        for event in (other, bad, good):
            await publish_event(bus, event, cause="test", now=time.time())
        first, second = [await following(messages) for _ in range(2)]
    await bus.close()
    by_digest = {event.digest: event for event in (first, second)}
    loaded, failed = by_digest[good.revision.digest], by_digest[bad.revision.digest]
    assert isinstance(loaded, AdapterLoaded)
    assert isinstance(failed, AdapterFailed)
    assert (loaded.engine_id, loaded.tenant_id, loaded.tier) == ("tiny-9", TENANT, "host")
    assert failed.code == "blob_corrupt"
    assert {first.sequence, second.sequence} == {1, 2}
    await answer(place.loader, good.revision)
    return good.revision


_ORPHAN = """
import multiprocessing, os
from services.loader.adapters.vllm_plugin import die_with_parent
def child():
    die_with_parent()
    print(os.getpid(), flush=True)
    multiprocessing.Event().wait()
process = multiprocessing.get_context("fork").Process(target=child)
process.start()
process.join()
"""


def test_an_engine_process_does_not_outlive_a_killed_loader() -> None:
    with subprocess.Popen([sys.executable, "-c", _ORPHAN], cwd=ROOT, stdout=subprocess.PIPE) as loader:
        assert loader.stdout is not None
        engine = psutil.Process(int(loader.stdout.readline()))
        loader.kill()
    asyncio.run(until_ended([engine]))
