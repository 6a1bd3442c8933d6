"""The engine is killed, or hangs, in the middle of loads: nothing that was held, asked or told is lost."""

import asyncio
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mint_common.adapters_format import MANIFEST_FILE, BaseFacts
from mint_common.blobs.localfs import LocalBlobs
from mint_common.bus.nats import connect_nats
from mint_common.claims import RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.errors import MintError
from mint_common.generation import Finished, GenerationRequest, Sampling, Started
from mint_common.ids import Digest
from mint_common.runtime.dispatch import publish_event
from tests.integration.loader.test_process import (
    BASE_DIR,
    TENANT,
    TOKEN,
    environment,
    free_port,
    kept,
    published,
    ready,
    running,
)

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.timeout(180)]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a loader runs, and its client."""

    environ: dict[str, str]
    url: str
    cache: Path
    log: Path
    client: EngineClient


@pytest.mark.parametrize("end", ["killed", "hanging"])
async def test_an_engine_that_ends_in_the_middle_of_loads_loses_nothing(
    end: str, tmp_path: Path, nats_url: str, database: str, facts: BaseFacts
) -> None:
    blobs = LocalBlobs(tmp_path / "blobs")
    held, asked, told = [await published(blobs, facts, seed=seed) for seed in (11, 12, 13)]
    registry_url, loader_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    shared = environment(tmp_path, nats_url) | {"MINT_POSTGRES_DSN": database}
    registry_environ = shared | {"MINT_REGISTRY_HTTP_PORT": registry_url.rpartition(":")[2]}
    bus = await connect_nats(nats_url, name="test")
    async with InternalHttp(loader_url, token=TOKEN) as http:
        place = Place(
            environ={
                **shared,
                "MINT_PEERS_REGISTRY_URL": registry_url,
                "MINT_LOADER_HTTP_PORT": loader_url.rpartition(":")[2],
                "MINT_LOADER_ENGINE_ID": "tiny-crash",
                "MINT_LOADER_BASE_DIR": str(BASE_DIR),
                "MINT_LOADER_CACHE_DIR": str(tmp_path / "cache"),
                "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
                "MINT_LOADER_KEEP_SECONDS": "0.2",
                "MINT_LOADER_RECONCILE_SECONDS": "0.2",
                "MINT_LOADER_ENGINE_SILENCE_SECONDS": "5" if end == "hanging" else "60",
            },
            url=loader_url,
            cache=tmp_path / "cache",
            log=tmp_path / "loader.log",
            client=EngineClient(http),
        )
        with running("registry", registry_environ, tmp_path / "registry.log"):
            with running("loader", place.environ, place.log) as loader:
                await ready(loader_url, loader, place.log)
                await answer(place.client, held.revision)
                await place.client.pin(held.revision.digest, tenant_id=TENANT)
                await kept(database, held.revision.digest)
                engine = engine_of(loader)
                engine.suspend()  # so that the loads are in the middle for as long as it takes to see it
                await publish_event(bus, told, cause="test", now=time.time())
                request = asyncio.create_task(answer(place.client, asked.revision))
                for digest in (told.revision.digest, asked.revision.digest):
                    await in_the_middle(place, digest)
                if end == "killed":
                    engine.send_signal(signal.SIGKILL)
                with pytest.raises(MintError) as refusal:
                    await request
                assert refusal.value.retryable
                assert await asyncio.to_thread(loader.wait, 30) != 0
                assert not engine.is_running()
            with running("loader", place.environ, place.log) as loader:
                await ready(loader_url, loader, place.log)
                await answer(place.client, asked.revision)
                await become_ready(place.client, {held.revision.digest, told.revision.digest})
    await bus.close()


def engine_of(loader: subprocess.Popen[bytes]) -> psutil.Process:
    children = psutil.Process(loader.pid).children(recursive=True)
    (engine,) = [child for child in children if "EngineCore" in child.name()]
    return engine


async def answer(client: EngineClient, revision: RevisionRef) -> None:
    """Ask for a revision, and see that it answers."""
    request = GenerationRequest(
        request_id=f"r{revision.number}",
        tenant_id=TENANT,
        revision=revision,
        text="f abcd=",
        sampling=Sampling(max_new_tokens=4, temperature=0.0, ignore_eos=True),
    )
    chunks = [chunk async for chunk in client.generate(request)]
    assert isinstance(chunks[0], Started)
    assert chunks[0].revision == revision.digest
    assert chunks[-1] == Finished(index=0, reason="length")


async def in_the_middle(place: Place, digest: Digest) -> None:
    """Wait until an adapter's files are here and it is for the engine, which stands still, to go on."""
    manifest = place.cache / digest.removeprefix("sha256:") / MANIFEST_FILE
    on_its_way = {"fetching", "staged", "activating"}
    async with asyncio.timeout(20):
        while (await place.client.adapter(digest)).state not in on_its_way or not manifest.exists():
            await asyncio.sleep(0.02)


async def become_ready(client: EngineClient, digests: set[Digest]) -> None:
    """Wait until adapters are ready that nobody asks for any more."""
    async with asyncio.timeout(60):
        while not digests <= {each.digest for each in await client.adapters() if each.readiness == "ready"}:
            await asyncio.sleep(0.1)
