"""Engines and their builders in a bench's own process, as a loader starts them."""

import warnings
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from benches.serving import KV_BYTES
from benches.stacks import scratch_folder
from mint_common.adapters_format import BaseFacts
from mint_common.dtypes import Dtype
from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.arena import open_arena
from services.loader.adapters.builder.client import Builder, BuilderConfig, open_builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig, plan_for_device, start_engine
from services.loader.core.execution import Asked

ARENA_BYTES = 1 << 30


def engine_config(
    base: Path,
    facts: BaseFacts,
    *,
    slots: int,
    host: int,
    sequences: int = 16,
    max_context: int = 2048,
    kv_bytes: int = KV_BYTES,
    dtype: Dtype | None = None,
) -> EngineConfig:
    """Return how to start an engine of one thread on the device that vLLM finds.

    Its dtype, unless one is given, is the device's usual one.
    """
    return EngineConfig(
        base_dir=base,
        facts=facts,
        max_context=min(facts.max_context, max_context),
        slots=slots,
        host_capacity=host,
        max_sequences=sequences,
        max_logprobs=20,
        threads=1,
        compile_seconds=5,
        execution=plan_for_device(Asked(dtype=dtype, kv_cache_bytes=kv_bytes), base_dir=base, threads=1),
    )


def base_engine(config: EngineConfig) -> VllmEngine:
    """Start an engine that is asked for its base alone: its builder does not run."""
    return _quietly_started(config, idle_builder(config))


def idle_builder(config: EngineConfig) -> Builder:
    """Return the builder, which does not run, of an engine that is asked for its base alone."""
    return Builder(_builder_config(config.base_dir, Path("/nonexistent")), SystemClock())


@asynccontextmanager
async def open_engine(config: EngineConfig) -> AsyncIterator[VllmEngine]:
    """Run an engine and its builder; end both."""
    how = config.execution
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(scratch_folder())
        arena = stack.enter_context(open_arena(ARENA_BYTES)) if how.has_arena else ""
        building = replace(_builder_config(config.base_dir, folder), dtype=how.dtype, arena=arena)
        builder = await stack.enter_async_context(open_builder(building, SystemClock()))
        engine = _quietly_started(config, builder)
        try:
            if arena:
                await engine.open_arena(arena)
            yield engine
        finally:
            engine.close()


def _quietly_started(config: EngineConfig, builder: Builder) -> VllmEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return start_engine(config, builder)


def _builder_config(base: Path, folder: Path) -> BuilderConfig:
    return BuilderConfig(
        blobs=BlobSettings(url=f"file://{folder}/blobs"),
        base_dir=base,
        cache_dir=folder / "cache",
        disk_bytes=1 << 30,
        silence_seconds=60.0,
    )
