"""The loader as a process: it registers its base, follows events, and dies with its engine."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import httpx
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
from mint_common.errors import EngineRestarting
from mint_common.events import AdapterFailed, AdapterLoaded, RevisionPublished
from mint_common.events.codec import decode
from mint_common.events.event import Event
from mint_common.events.subjects import subjects_of
from mint_common.generation import Finished, GenerationRequest, Sampling, Started
from mint_common.ids import Digest, PolicyId, TenantId
from mint_common.runtime.dispatch import publish_event

pytestmark = [pytest.mark.engine, pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[3]
BASE_DIR = ROOT / "bases" / "tiny"
TOKEN = "internal"
TENANT = TenantId("t")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(service: str, environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service until the block ends."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{service}"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environ},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.1)
    raise AssertionError(f"not ready:\n{log.read_text()[-4000:]}")


def environment(folder: Path, nats_url: str) -> dict[str, str]:
    return {
        "MINT_NATS_URL": nats_url,
        "MINT_BLOBS_URL": f"file://{folder}/blobs",
        "MINT_INTERNAL_TOKEN": TOKEN,
    }


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
    async with asyncio.timeout(30):
        return decode((await anext(messages)).data)[1]


async def test_the_loader_follows_events_and_dies_with_its_engine(
    tmp_path: Path, nats_url: str, database: str, facts: BaseFacts
) -> None:
    shared = environment(tmp_path, nats_url)
    registry_url, loader_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    registry_environ = {
        **shared,
        "MINT_POSTGRES_DSN": database,
        "MINT_REGISTRY_HTTP_PORT": registry_url.rpartition(":")[2],
    }
    loader_environ = {
        **shared,
        "MINT_POSTGRES_DSN": database,
        "MINT_LOADER_KEEP_SECONDS": "0.2",
        "MINT_PEERS_REGISTRY_URL": registry_url,
        "MINT_LOADER_HTTP_PORT": loader_url.rpartition(":")[2],
        "MINT_LOADER_ENGINE_ID": "tiny-9",
        "MINT_LOADER_BASE_DIR": str(BASE_DIR),
        "MINT_LOADER_CACHE_DIR": str(tmp_path / "cache"),
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
    }
    log = tmp_path / "loader.log"
    with (
        running("registry", registry_environ, tmp_path / "registry.log"),
        running("loader", loader_environ, log) as loader,
    ):
        await ready(loader_url, loader, log)
        async with InternalHttp(registry_url, token=TOKEN) as http:
            assert await RegistryClient(http).get_base(facts.name) == facts
        digest = await _follow(loader_url, nats_url, facts, LocalBlobs(tmp_path / "blobs"))
        async with InternalHttp(loader_url, token=TOKEN) as http:
            await EngineClient(http).pin(digest, tenant_id=TENANT)
        await kept(database, digest)

        directory = EngineDirectory([loader_url], token=TOKEN)
        await directory.describe(facts.name)
        children = psutil.Process(loader.pid).children(recursive=True)
        (engine,) = [child for child in children if "EngineCore" in child.name()]
        engine.send_signal(signal.SIGKILL)
        assert await asyncio.to_thread(loader.wait, 20) != 0
        sampling = Sampling(max_new_tokens=1, temperature=0.0)
        request = GenerationRequest(
            request_id="r", tenant_id=TENANT, revision=None, text="f", sampling=sampling
        )
        with pytest.raises(EngineRestarting, match="is restarting: try again in"):
            await anext(directory.generate(facts.name, request))
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive

    # The supervisor starts it again: it holds what it held, though nobody asks and NATS says nothing new.
    with (
        running("registry", registry_environ, tmp_path / "registry.log"),
        running("loader", loader_environ, log) as loader,
    ):
        await ready(loader_url, loader, log)
        assert isinstance(await anext(directory.generate(facts.name, request)), Started)
        await directory.aclose()
        async with InternalHttp(loader_url, token=TOKEN) as http:
            async with asyncio.timeout(20):
                while (status := (await EngineClient(http).adapters())[0]).tier != "slot":
                    await asyncio.sleep(0.05)
        assert (status.digest, status.pinned, status.readiness) == (digest, True, "ready")


async def kept(dsn: str, digest: Digest) -> None:
    """Wait until a pinned adapter is in the stored working set."""
    connection = await asyncpg.connect(dsn)
    async with asyncio.timeout(20):
        while not await connection.fetchval(
            "SELECT true FROM loader.working_set WHERE digest = $1 AND pinned", digest
        ):
            await asyncio.sleep(0.05)
    await connection.close()


async def _follow(loader_url: str, nats_url: str, facts: BaseFacts, blobs: LocalBlobs) -> Digest:
    """Publish a good and a bad revision, and ask for the good one; return its digest."""
    good, bad = [await published(blobs, facts, seed=seed) for seed in (1, 2)]
    await blobs.put(bad.revision.manifest.uri.replace(MANIFEST_FILE, WEIGHTS_FILE), b"not an adapter")
    other = replace(good, base="other", export_id="e9")  # of another base: not for this loader
    bus = await connect_nats(nats_url, name="test")
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

    directory = EngineDirectory([loader_url], token=TOKEN)
    request = GenerationRequest(
        request_id="r",
        tenant_id=TENANT,
        revision=good.revision,
        text="f abcd=",
        sampling=Sampling(max_new_tokens=4, temperature=0.0, ignore_eos=True),
    )
    chunks = [chunk async for chunk in directory.generate(facts.name, request)]
    await directory.aclose()
    assert isinstance(chunks[0], Started)
    assert chunks[0].revision == good.revision.digest
    assert chunks[-1] == Finished(index=0, reason="length")
    return good.revision.digest


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
    gone, _ = psutil.wait_procs([engine], timeout=10)
    assert gone == [engine] or engine.status() == psutil.STATUS_ZOMBIE
