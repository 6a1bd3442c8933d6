"""vLLM's own OpenAI server, with the engine arguments that the loader uses: what MinT is measured against."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benches.bases import TINY
from benches.serving import KV_BYTES
from mint_common.adapters_format import read_base_facts
from services.standalone.adapters.launch import free_port

_READY_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSize:
    """What both engines are given: slots, host copies, sequences at once."""

    slots: int
    host: int
    sequences: int = 64

    @property
    def overrides(self) -> dict[str, str]:
        """Return the same sizes as a loader's settings."""
        return {
            "MINT_LOADER_SLOTS": str(self.slots),
            "MINT_LOADER_HOST_CAPACITY": str(self.host),
            "MINT_LOADER_MAX_SEQUENCES": str(self.sequences),
        }


@contextlib.asynccontextmanager
async def open_bare_vllm(
    size: EngineSize, log: Path, *, plugin: str = "mint_engine_repairs"
) -> AsyncIterator[str]:
    """Start the server and yield its URL; adapters are added by POST /v1/load_lora_adapter.

    ``plugin``: `mint_engine_fixes` gives it the loader's kernels and activations too.
    """
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *_arguments(size, port)],
            env={**os.environ, **_ENVIRONMENT, "VLLM_PLUGINS": plugin},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await _ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
}


def _arguments(size: EngineSize, port: int) -> list[str]:
    facts = read_base_facts(TINY)
    options = {
        "model": str(TINY),
        "served-model-name": facts.name,
        "host": "127.0.0.1",
        "port": str(port),
        "dtype": "float32",
        "max-model-len": str(facts.max_context),
        "max-num-seqs": str(size.sequences),
        "max-logprobs": "20",
        "logprobs-mode": "raw_logprobs",
        "max-loras": str(size.slots),
        "max-cpu-loras": str(size.host),
        "max-lora-rank": str(facts.max_rank),
        "kv-cache-memory-bytes": str(KV_BYTES),
        "uvicorn-log-level": "warning",
    }
    flags = ["--enable-lora", "--enforce-eager", "--disable-uvicorn-access-log"]
    named = [word for name, value in options.items() for word in (f"--{name}", value)]
    return [*named, *flags, "--lora-target-modules", *facts.targets]


async def _ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.1)
    raise RuntimeError(f"vLLM's server did not start:\n{log.read_text(errors='replace')[-3000:]}")
