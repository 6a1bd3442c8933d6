"""What bench tinker compares: a whole stack behind the official SDK, and the same work without any of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

import tinker

from benches.bases import base_folder
from benches.engines import base_engine, engine_config
from benches.stacks import open_bench_stack
from benches.tinker_replay import open_replay
from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import TenantId
from services.loader.adapters.vllm.engine import VllmEngine

SERVICES = ("registry", "loader", "trainer", "gateway")
SEQUENCES, LENGTH, RANK, RATE = 16, 64, 8, 1e-3
SLOTS, HOST, COMPLETIONS = 8, 96, 64
KV_BYTES = {"tiny": 64 << 20, "smollm2": 256 << 20}


@contextlib.asynccontextmanager
async def open_services(base: str) -> AsyncIterator[tuple[tinker.ServiceClient, tinker.ServiceClient]]:
    """Start a stack of one base, and connect the SDK to it, and to recorded answers of it."""
    sizes = {
        "MINT_LOADER_KV_CACHE_BYTES": str(KV_BYTES[base]),
        "MINT_LOADER_SLOTS": str(SLOTS),
        "MINT_LOADER_HOST_CAPACITY": str(HOST),
        "MINT_LOADER_MAX_SEQUENCES": str(COMPLETIONS),
    }
    async with open_bench_stack(SERVICES, base=base, overrides=sizes) as stack:
        with open_replay(stack.gateway_url) as replay_url:
            services = [
                tinker.ServiceClient(base_url=url, api_key=stack.api_key)
                for url in (stack.gateway_url, replay_url)
            ]
            yield services[0], services[1]
            for service in services:
                await asyncio.to_thread(service.close("success").result)


def token_rows(facts: BaseFacts) -> list[list[int]]:
    """Return the sequences that are trained on: each has its own stride."""
    low, room = 20, facts.vocab_size - 40
    return [
        [low + (31 * row + (7 + row) * at) % room for at in range(LENGTH + 1)] for row in range(SEQUENCES)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BareSampling:
    """The same engine with the same arguments, called in this process."""

    engine: VllmEngine

    async def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> int:
        """Sample all prompts at once from the bare base and return how many tokens came."""
        requests = [
            SampleRequest(
                request_id=f"bare-{seed}",
                tenant_id=TenantId("bench"),
                revision=None,
                tokens=tuple(prompt),
                sampling=replace(sampling, seed=seed),
            )
            for seed, prompt in enumerate(prompts)
        ]
        samples = await asyncio.gather(
            *(self.engine.sample(each, request_id=each.request_id, adapter=None) for each in requests)
        )
        return sum(len(each.tokens) // 4 for sample in samples for each in sample.sequences)


@contextlib.contextmanager
def open_bare_sampling(base: str) -> Iterator[BareSampling]:
    """Start an engine."""
    folder = base_folder(base)
    config = engine_config(
        folder,
        read_base_facts(folder),
        slots=SLOTS,
        host=HOST,
        sequences=COMPLETIONS,
        kv_bytes=KV_BYTES[base],
    )
    engine = base_engine(config)
    try:
        yield BareSampling(engine=engine)
    finally:
        engine.close()
