"""A real vLLM engine, started once, behind the loader's real HTTP."""

import asyncio
import gc
import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar  # vLLM's AsyncLLM: it is imported only when an engine starts

import httpx
import numpy as np
import pytest
import pytest_asyncio
from http_servers import make_server

from mint_common.adapters_format import (
    AdapterFiles,
    BaseFacts,
    build_adapter,
    peft_name,
    read_base_facts,
    store_adapter,
)
from mint_common.blobs.localfs import LocalBlobs
from mint_common.claims import RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.events.event import Event
from mint_common.ids import PolicyId
from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings, read_settings
from services.loader.adapters.announcements import BusAnnouncements
from services.loader.adapters.builder.client import Builder, BuilderConfig
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig, start_engine
from services.loader.app import COMPILE_SECONDS, open_engine, open_loader
from services.loader.core.parsing import Parsing
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.tiers import Tiers
from services.loader.ports import LoadedAdapter
from services.loader.settings import LoaderSettings
from tests.integration.loader.internal_api import Api
from tests.testing.clock import settle

BASE_DIR = Path(__file__).parents[3] / "bases" / "tiny"
SLOTS, HOST, WORKERS = 2, 4, 2
TOKEN = "internal"
T = TypeVar("T")


class CountedEngine(VllmEngine):
    """The real engine, with a count of its loads; they wait for ``gate``."""

    def __init__(self, llm: Any, builder: Builder, **options: Any) -> None:
        super().__init__(llm, builder, **options)
        self.loads = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def stage(self, adapter: LoadedAdapter, *, victims: Sequence[int] = ()) -> int:
        """Count and load."""
        self.loads += 1
        await self.gate.wait()
        return await super().stage(adapter, victims=victims)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A loader over the shared engine, and a client of it; ``announced`` are its events so far."""

    engine: CountedEngine
    tiers: Tiers
    quarantined: Quarantined
    blobs: LocalBlobs
    facts: BaseFacts
    announced: list[Event]
    client: EngineClient
    http: InternalHttp
    url: str

    async def publish(self, files: AdapterFiles, *, number: int = 1) -> RevisionRef:
        """Store an adapter and return its revision."""
        manifest = await store_adapter(self.blobs, files, export_id=f"e{number}")
        return RevisionRef(digest=files.digest, number=number, manifest=manifest)

    async def revision(self, seed: int, *, rank: int = 4) -> RevisionRef:
        """Store a random adapter that changes the base's answers visibly."""
        return await self.publish(random_adapter(self.facts, seed=seed, rank=rank), number=seed)


@asynccontextmanager
async def quietly(engine: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Open and close an engine without the warnings of vLLM and torch."""
    stack = AsyncExitStack()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = await stack.enter_async_context(engine)
    yield opened
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await stack.aclose()
        await settle()
        gc.collect()  # vLLM leaves sockets to the collector, which warns of them


@asynccontextmanager
async def started(config: EngineConfig, builder: Builder) -> AsyncIterator[VllmEngine]:
    """Run an engine alone."""
    engine = start_engine(config, builder)
    try:
        yield engine
    finally:
        engine.close()


def builder_config(base: Path, folder: Path) -> BuilderConfig:
    """Return what a builder works with whose blobs and cache lie in a folder."""
    return BuilderConfig(
        blobs=BlobSettings(url=f"file://{folder}/blobs"),
        base_dir=base,
        cache_dir=folder / "cache",
        disk_bytes=1 << 30,
        silence_seconds=60.0,
    )


def random_adapter(facts: BaseFacts, *, seed: int, rank: int) -> AdapterFiles:
    """Return an adapter over every module."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (width, height) in facts.modules.items():
        a = rng.standard_normal((rank, width), dtype=np.float32) / np.float32(width**0.5)
        b = rng.standard_normal((height, rank), dtype=np.float32) * np.float32(0.2)
        tensors |= {peft_name(module, "A"): a, peft_name(module, "B"): b}
    return build_adapter(
        facts=facts, policy_id=PolicyId("pol"), step=seed, parent=None, rank=rank, tensors=tensors
    )


@pytest.fixture(scope="session")
def facts() -> BaseFacts:
    """Return the facts of the tiny base."""
    return read_base_facts(BASE_DIR)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the engine would keep what it has compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def engine_settings(tmp_path_factory: pytest.TempPathFactory) -> LoaderSettings:
    """Return the settings of the loaders over the shared engine, whose servers a rig names."""
    folder = tmp_path_factory.mktemp("engine")
    environ = {
        "MINT_NATS_URL": "nats://127.0.0.1:9",
        "MINT_POSTGRES_DSN": "postgresql://127.0.0.1:9/none",
        "MINT_BLOBS_URL": f"file://{folder}/blobs",
        "MINT_PEERS_REGISTRY_URL": "http://127.0.0.1:9",
        "MINT_INTERNAL_TOKEN": TOKEN,
        "MINT_LOADER_HTTP_PORT": "0",
        "MINT_LOADER_ENGINE_ID": "tiny-0",
        "MINT_LOADER_BASE_DIR": str(BASE_DIR),
        "MINT_LOADER_CACHE_DIR": str(folder / "cache"),
        "MINT_LOADER_SLOTS": str(SLOTS),
        "MINT_LOADER_HOST_CAPACITY": str(HOST),
        "MINT_LOADER_LOAD_WORKERS": str(WORKERS),
        "MINT_LOADER_MAX_COMPLETIONS": "16",
        "MINT_LOADER_KV_CACHE_BYTES": str(32 << 20),
    }
    return read_settings(LoaderSettings, environ, service="loader")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(
    engine_settings: LoaderSettings, facts: BaseFacts, compiled: Path
) -> AsyncIterator[CountedEngine]:
    """Run the builder and vLLM, as a loader does."""
    async with quietly(open_engine(engine_settings, facts, SystemClock())) as (engine, builder):
        options = {"base": facts.name, "parsing": Parsing(tool_parser="hermes")}
        counted = CountedEngine(
            engine._llm, builder, compile_seconds=COMPILE_SECONDS, latest=engine._latest, **options
        )
        yield counted
        counted._serving.close()  # its own; the engine itself is closed as what was opened
        counted._llm = None


@pytest_asyncio.fixture(loop_scope="session")
async def make_rig(
    shared_engine: CountedEngine,
    engine_settings: LoaderSettings,
    facts: BaseFacts,
    nats_url: str,
    shared_database: str,
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Return a maker of loaders over the shared engine; they leave it empty."""
    async with AsyncExitStack() as stack:

        @asynccontextmanager
        async def opens(*_: object) -> AsyncIterator[tuple[VllmEngine, Builder]]:
            yield shared_engine, shared_engine._builder

        async def make(**limits: int) -> Rig:
            shared_engine.loads = 0
            shared_engine.gate.set()
            servers = {"nats": {"url": nats_url}, "postgres": {"dsn": shared_database}}
            settings = LoaderSettings.model_validate(engine_settings.model_dump() | servers | limits)
            loader = await stack.enter_async_context(open_loader(settings, opens=opens))
            announced = _kept(loader.announcements)
            listener = socket.create_server(("127.0.0.1", 0))
            server = make_server(loader.http)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            background = [
                asyncio.create_task(each()) for each in (loader.tiers.run, loader.announcements.run)
            ]
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            http = InternalHttp(url, token=TOKEN)

            async def stop() -> None:
                await http.close()
                server.should_exit = True
                await serving
                for part in loader.tiers.working_set():
                    digest, tenant_id = part.revision.digest, part.tenant_id
                    loader.tiers.pin(digest, tenant_id=tenant_id, pinned=False)
                    await loader.tiers.evict(digest, tenant_id=tenant_id, cause="test")
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)
                assert not await shared_engine._llm.list_loras(), "the engine is left as it was found"

            stack.push_async_callback(stop)
            return Rig(
                engine=shared_engine,
                tiers=loader.tiers,
                quarantined=loader.serving._quarantined,
                blobs=LocalBlobs(Path(engine_settings.blobs.url.removeprefix("file://"))),
                facts=facts,
                announced=announced,
                client=EngineClient(http),
                http=http,
                url=url,
            )

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def api(rig: Any) -> AsyncIterator[Api]:
    """Return a client of the internal route."""
    async with httpx.AsyncClient(base_url=rig.url, headers={"x-mint-internal-token": TOKEN}) as client:
        yield Api(client)


def _kept(announcements: BusAnnouncements) -> list[Event]:
    """Keep what is announced, which goes out as ever."""
    events: list[Event] = []
    announce = announcements.announce

    def keep(event: Event, *, cause: str) -> None:
        events.append(event)
        announce(event, cause=cause)

    announcements.announce = keep  # type: ignore[method-assign]  # this one alone
    return events


@pytest_asyncio.fixture(loop_scope="session")
async def rig(make_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Return a loader with everyday limits."""
    return await make_rig()
