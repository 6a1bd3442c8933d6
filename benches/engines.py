"""Engines and their builders in a bench's own process, as a loader starts them."""

import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benches.serving import KV_BYTES
from benches.stacks import scratch_folder
from mint_common.adapters_format import BaseFacts
from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.client import Builder, BuilderConfig, open_builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig, start_engine
from services.loader.core.execution import Execution


def engine_config(
    base: Path,
    facts: BaseFacts,
    *,
    slots: int,
    host: int,
    sequences: int = 16,
    max_context: int = 2048,
    kv_bytes: int = KV_BYTES,
) -> EngineConfig:
    """Return how to start an engine of one thread in float32."""
    return EngineConfig(
        base_dir=base,
        facts=facts,
        max_context=min(facts.max_context, max_context),
        slots=slots,
        host_capacity=host,
        max_sequences=sequences,
        max_logprobs=20,
        threads=1,
        execution=Execution(kv_cache_bytes=kv_bytes),
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
    with scratch_folder() as folder:
        async with open_builder(_builder_config(config.base_dir, folder), SystemClock()) as builder:
            engine = _quietly_started(config, builder)
            try:
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
