"""A real vLLM engine, started once, behind the loader's real HTTP."""

import asyncio
import gc
import os
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import uvicorn

from mint_common.adapters_format import (
    AdapterFiles,
    BaseFacts,
    build_adapter,
    peft_name,
    read_base_facts,
    store_adapter,
)
from mint_common.blobs.port import Blobs
from mint_common.claims import Claim, RevisionRef
from mint_common.client.engine import EngineClient
from mint_common.client.http import InternalHttp
from mint_common.events.event import Event
from mint_common.generation import EngineInfo
from mint_common.ids import EngineId, PolicyId
from mint_common.runtime.clock import SystemClock, settle
from mint_common.runtime.edge import create_http
from mint_common.testing.blobs_memory import MemoryBlobs
from services.loader.adapters.builder.client import Builder, BuilderStaging
from services.loader.adapters.builder.disk_cache import DiskCache
from services.loader.adapters.vllm.engine import EngineConfig, VllmEngine, start_engine
from services.loader.app import MAX_LOGPROBS
from services.loader.core.open_work import OpenWork
from services.loader.core.requests import Limits
from services.loader.core.residency import Capacity
from services.loader.handlers.generation import Serving, warm_up
from services.loader.handlers.loads import LoadLimits
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.residency_log import EngineIdentity, ResidencyLog
from services.loader.handlers.slots import SlotLimits
from services.loader.handlers.tiers import TierLimits, Tiers
from services.loader.http import add_routes
from services.loader.ports import LoadedAdapter

BASE_DIR = Path(__file__).parents[3] / "bases" / "tiny"
SLOTS, HOST, WORKERS = 2, 4, 2
TOKEN = "internal"


class CountedEngine(VllmEngine):
    """The real engine, with a count of its loads."""

    loads = 0

    async def stage(self, adapter: LoadedAdapter) -> int:
        """Count and load."""
        self.loads += 1
        return await super().stage(adapter)


class GatedBlobs(MemoryBlobs):
    """Blobs that can be held back."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Fetch once the gate is open."""
        await self.gate.wait()
        await super().fetch(claim, path)


@dataclass
class Announced:
    """Announcements, kept."""

    events: list[Event] = field(default_factory=list)

    def announce(self, event: Event, *, cause: str) -> None:
        """Keep an event."""
        self.events.append(event)


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A loader over the shared engine, and a client of it."""

    engine: CountedEngine
    tiers: Tiers
    quarantined: Quarantined
    blobs: Blobs
    facts: BaseFacts
    announced: Announced
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


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_engine(facts: BaseFacts, compiled: Path) -> AsyncIterator[CountedEngine]:
    """Start vLLM once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's and torch's own
        started = start_engine(
            EngineConfig(
                base_dir=BASE_DIR,
                facts=facts,
                max_context=facts.max_context,
                slots=SLOTS,
                host_capacity=HOST,
                max_sequences=64,
                kv_cache_bytes=32 << 20,
                max_logprobs=MAX_LOGPROBS,
                threads=1,
            )
        )
        engine = CountedEngine(started._llm)
        await warm_up(engine)
    yield engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine.close()
        started._llm = None
        await settle()
        gc.collect()  # vLLM leaves sockets to the collector, which warns of them


@pytest_asyncio.fixture(loop_scope="session")
async def make_rig(
    shared_engine: CountedEngine, facts: BaseFacts, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Rig]]]:
    """Return a maker of loaders over the shared engine; they leave it empty."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            depth: int = 64,
            workers: int = WORKERS,
            builder: Builder | None = None,
            blobs: Blobs | None = None,
        ) -> Rig:
            clock, blobs, announced = SystemClock(), blobs or GatedBlobs(), Announced()
            engine = CountedEngine(shared_engine._llm, builder) if builder else shared_engine
            engine.loads = 0
            cache = DiskCache(blobs, facts, root=tmp_path / "cache", capacity_bytes=1 << 30, clock=clock)
            cache.open()
            engine_id = EngineId("tiny-0")
            identity = EngineIdentity(engine_id=engine_id, epoch="epoch_1", base=facts.name)
            log = ResidencyLog(identity, announced)
            quarantined = Quarantined(log)
            tiers = Tiers(
                engine=engine,
                staging=BuilderStaging(builder) if builder else cache,
                log=log,
                limits=TierLimits(
                    capacity=Capacity(slots=SLOTS, host=HOST, host_bytes=1 << 30),
                    loads=LoadLimits(
                        queue_depth=depth,
                        tenant_queue_depth=depth,
                        workers=workers,
                        queue_wait_seconds=60.0,
                        room_wait_seconds=20.0,
                    ),
                    slots=SlotLimits(
                        stall_share=0.1, stall_burst_ms=2.0, slice_ms=2.0, drain_after_seconds=0.5
                    ),
                ),
                clock=clock,
            )
            serving = Serving(
                engine=engine,
                tiers=tiers,
                quarantined=quarantined,
                limits=Limits(
                    max_context=facts.max_context,
                    vocab_size=facts.vocab_size,
                    max_completions=16,
                    max_logprobs=MAX_LOGPROBS,
                ),
                engine_id=engine_id,
                work=OpenWork(most_requests=512, most_sequences=1 << 13, most_tokens=1 << 22),
            )
            app = create_http(title="t", service="loader", internal_token=TOKEN, ready=lambda: True)
            info = EngineInfo(
                engine_id=engine_id,
                epoch="epoch_1",
                base=facts.name,
                base_digest=facts.digest,
                max_context=facts.max_context,
                vocab_size=facts.vocab_size,
                eos_token_id=engine.eos_token_id,
                slots=SLOTS,
                host_capacity=HOST,
            )
            add_routes(app, serving=serving, tiers=tiers, info=info)
            listener = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
            tasks = [
                asyncio.create_task(tiers.run()),
                asyncio.create_task(server.serve(sockets=[listener])),
            ]
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            http = InternalHttp(url, token=TOKEN)
            client = EngineClient(http)

            async def stop() -> None:
                await http.close()
                server.should_exit = True
                await tasks[1]
                for kept in tiers.working_set():
                    digest, tenant_id = kept.revision.digest, kept.tenant_id
                    tiers.pin(digest, tenant_id=tenant_id, pinned=False)
                    await tiers.evict(digest, tenant_id=tenant_id, cause="test")
                tasks[0].cancel()
                with suppress(asyncio.CancelledError):
                    await tasks[0]
                assert not await shared_engine._llm.list_loras(), "the engine is left as it was found"

            stack.push_async_callback(stop)
            return Rig(
                engine=engine,
                tiers=tiers,
                quarantined=quarantined,
                blobs=blobs,
                facts=facts,
                announced=announced,
                client=client,
                http=http,
                url=url,
            )

        yield make


@pytest_asyncio.fixture(loop_scope="session")
async def rig(make_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    """Return a loader with everyday limits."""
    return await make_rig()
