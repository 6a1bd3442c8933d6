"""Engines of benches: their builders."""

from pathlib import Path

from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.client import Builder, BuilderConfig
from services.loader.adapters.vllm.starting import EngineConfig


def builder_config(base: Path, folder: Path) -> BuilderConfig:
    """Return what a builder works with whose blobs and cache lie in a folder."""
    return BuilderConfig(
        blobs=BlobSettings(url=f"file://{folder}/blobs"),
        base_dir=base,
        cache_dir=folder / "cache",
        disk_bytes=1 << 30,
        silence_seconds=60.0,
    )


def idle_builder(config: EngineConfig) -> Builder:
    """Return the builder, which does not run, of an engine that is asked for its base alone."""
    return Builder(builder_config(config.base_dir, Path("/nonexistent")), SystemClock())
