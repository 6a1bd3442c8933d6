"""Tiers over an engine in memory: what is tested is the loader's own order of things, not vLLM."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mint_common.adapters_format import BaseFacts, store_adapter
from mint_common.claims import Claim, RevisionRef
from mint_common.errors import AdapterInvalid
from mint_common.events.event import Event
from mint_common.ids import Digest, EngineId
from services.loader.adapters.builder.disk_cache import DiskCache
from services.loader.core.open_work import OpenWork
from services.loader.core.requests import Limits
from services.loader.core.residency import Capacity
from services.loader.handlers.generation import Serving
from services.loader.handlers.homes import Homes
from services.loader.handlers.loads import LoadLimits
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.residency_log import EngineIdentity, ResidencyLog
from services.loader.handlers.slots import SlotLimits
from services.loader.handlers.tiers import TierLimits, Tiers
from services.loader.ports import LoadedAdapter, Slice
from tests.testing.adapters import make_adapter, make_base_facts
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock


class MemoryEngine:
    """The adapter half of an engine; every load waits for ``gate``, every copy for ``copy_gate``."""

    def __init__(self, *, slots: int, host: int, stall_ms: float = 0.3) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.copy_gate = asyncio.Event()
        self.copy_gate.set()
        self.stall_ms = stall_ms
        self.has_full_slots = False
        self.loads: list[Digest] = []
        self.copies: list[Digest] = []
        self.host: dict[int, Digest] = {}
        self.slots: set[int] = set()
        self.refused: set[Digest] = set()
        self.broken: set[Digest] = set()
        self.lost: set[int] = set()
        self._slots = slots
        self._host = host

    async def stage(self, adapter: LoadedAdapter, *, victims: Sequence[int] = ()) -> int:
        """Load, or refuse what the test says."""
        for number in victims:
            await self.unload(number)
        self.loads.append(adapter.digest)
        await self.gate.wait()
        if adapter.digest in self.refused:
            raise AdapterInvalid(reason="engine_refused", problem="the test says so")
        if adapter.digest in self.broken:
            raise RuntimeError("no error that anybody expects")
        assert adapter.number not in self.host
        assert adapter.digest not in self.host.values()
        self.lost.discard(adapter.number)
        self.host[adapter.number] = adapter.digest
        assert len(self.host) <= self._host, "vLLM's own LRU would evict"
        return 100

    async def activate(
        self, adapter: LoadedAdapter, *, victim: LoadedAdapter | None, slice_ms: float
    ) -> Slice:
        """Copy in one slice, unless the test says that nobody has left yet."""
        if self.has_full_slots:
            return Slice(done=False, stall_ms=0.0, waits=True)
        self.copies.append(adapter.digest)
        await self.copy_gate.wait()
        if adapter.number in self.lost:
            return Slice(done=False, stall_ms=0.0, lost=True)
        assert adapter.number in self.host
        if victim is not None:
            self.slots.discard(victim.number)
        self.slots.add(adapter.number)
        assert len(self.slots) <= self._slots, "vLLM's own LRU would evict"
        return Slice(done=True, stall_ms=self.stall_ms)

    async def unload(self, number: int) -> None:
        """Unload."""
        await asyncio.sleep(0)
        self.slots.discard(number)
        self.host.pop(number, None)

    def lose(self, digest: Digest) -> None:
        """Forget an adapter behind the loader's back."""
        number = next(number for number, held in self.host.items() if held == digest)
        self.lost.add(number)
        self.slots.discard(number)
        del self.host[number]

    async def residents(self) -> dict[int, bool]:
        """Return what is here."""
        return {number: number in self.slots for number in self.host}


@dataclass
class Announced:
    """Announcements, kept."""

    events: list[Event] = field(default_factory=list)

    def announce(self, event: Event, *, cause: str) -> None:
        """Keep an event."""
        self.events.append(event)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Tiers, running, and what they stand on."""

    tiers: Tiers
    quarantined: Quarantined
    engine: MemoryEngine
    announced: Announced
    blobs: MemoryBlobs
    facts: BaseFacts
    cache: DiskCache
    clock: ManualClock

    async def revision(self, seed: int, *, facts: BaseFacts | None = None, rank: int = 2) -> RevisionRef:
        """Store an adapter and return its revision."""
        files = make_adapter(facts or self.facts, seed=seed, rank=rank)
        manifest: Claim = await store_adapter(self.blobs, files, export_id=f"e{seed}")
        return RevisionRef(digest=files.digest, number=1 + seed, manifest=manifest)

    def serving(self, engine: Any) -> Serving:  # Any: the half of an engine that answers
        """Return what serves requests with an engine."""
        return Serving(
            engine=engine,
            tiers=self.tiers,
            quarantined=self.quarantined,
            limits=Limits(max_context=64, vocab_size=32, max_completions=4, max_logprobs=4),
            engine_id=EngineId("e"),
            dtype="float32",
            work=OpenWork(max_requests=64, max_sequences=64, max_tokens=1 << 12),
        )

    def homes(self, *, count: int = 2) -> Homes:
        """Return whose home the engine is; it knows no others yet."""
        return Homes(EngineId("e"), self.facts.name, count=count, is_in_use=self.tiers.is_in_use)

    def kinds(self) -> list[str]:
        """Return the types of what was announced."""
        return [event.type for event in self.announced.events]


@pytest.fixture
async def make_bench(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    """Return a maker of running tiers."""
    async with AsyncExitStack() as stack:

        async def make(
            *,
            slots: int = 2,
            host: int = 3,
            depth: int = 4,
            workers: int = 1,
            room_wait: float = 5.0,
            disk_bytes: int = 1 << 20,
            host_bytes: int = 1 << 20,
            tenant_depth: int = 64,
            queue_wait: float = 1000.0,
            drain_after: float = 0.5,
            stall_ms: float = 0.3,
            precedence_ms: float = 0.0,
        ) -> Bench:
            facts, clock, blobs = make_base_facts(), ManualClock(start=100.0), MemoryBlobs()
            cache = DiskCache(blobs, facts, root=tmp_path / "cache", capacity_bytes=disk_bytes, clock=clock)
            cache.open()
            engine, announced = MemoryEngine(slots=slots, host=host, stall_ms=stall_ms), Announced()
            identity = EngineIdentity(engine_id=EngineId("e"), epoch="epoch_1", base=facts.name)
            log = ResidencyLog(identity, announced, clock)
            tiers = Tiers(
                engine=engine,
                staging=cache,
                log=log,
                limits=TierLimits(
                    capacity=Capacity(slots=slots, host=host, host_bytes=host_bytes),
                    loads=LoadLimits(
                        queue_depth=depth,
                        tenant_queue_depth=tenant_depth,
                        workers=workers,
                        queue_wait_seconds=queue_wait,
                        room_wait_seconds=room_wait,
                    ),
                    slots=SlotLimits(
                        stall_share=0.1,
                        stall_burst_ms=2.0,
                        slice_ms=2.0,
                        drain_after_seconds=drain_after,
                        precedence_ms=precedence_ms,
                    ),
                ),
                clock=clock,
            )
            running = asyncio.create_task(tiers.run())

            async def stop() -> None:
                running.cancel()
                with suppress(asyncio.CancelledError):
                    await running

            stack.push_async_callback(stop)
            return Bench(
                tiers=tiers,
                quarantined=Quarantined(log),
                engine=engine,
                announced=announced,
                blobs=blobs,
                facts=facts,
                cache=cache,
                clock=clock,
            )

        yield make
