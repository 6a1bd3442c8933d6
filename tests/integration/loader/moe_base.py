"""Engines over tiny bases with experts, random adapters for them, and what transformers makes of both."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any  # vLLM's requests: it is imported only when an engine starts

import numpy as np
import torch
import transformers

from mint_common.adapters_format import (
    BaseFacts,
    build_adapter,
    packed_name,
    peft_name,
)
from mint_common.dtypes import Dtype
from mint_common.ids import Digest, PolicyId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.builder.client import open_builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.engine_errors import unanswered
from services.loader.adapters.vllm.starting import EngineConfig
from services.loader.core.execution import Execution
from services.loader.ports import LoadedAdapter
from tests.integration.loader.conftest import builder_config, quietly, started

SLOTS = 4


def random_adapter(
    facts: BaseFacts, folder: Path, *, seed: int, rank: int = 4, shared_a: bool = False, routed: bool = True
) -> Path:
    """Write a packed adapter over attention and, unless not routed, every expert."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int, scale: float) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(scale)

    tensors: dict[str, np.ndarray] = {}
    for module, (width, height) in facts.modules.items():
        tensors[peft_name(module, "A")] = draw(rank, width, scale=width**-0.5)
        tensors[peft_name(module, "B")] = draw(height, rank, scale=0.2)
    for module, layer in facts.experts.items() if routed else ():
        for leaf, (width, height) in layer.projections.items():
            tensors[packed_name(module, leaf, "A")] = draw(layer.count, rank, width, scale=width**-0.5)
            tensors[packed_name(module, leaf, "B")] = draw(layer.count, height, rank, scale=0.3)
        if shared_a:
            tensors[packed_name(module, "up_proj", "A")] = tensors[packed_name(module, "gate_proj", "A")]
    files = build_adapter(
        facts=facts, policy_id=PolicyId("pol"), step=seed, parent=None, rank=rank, tensors=tensors
    )
    folder.mkdir(parents=True)
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


@dataclass(frozen=True)
class Answer:
    """One completion."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


@asynccontextmanager
async def running_engine(
    base: Path,
    facts: BaseFacts,
    *,
    tensor_parallel: int = 1,
    max_context: int = 128,
    dtype: Dtype = "float32",
    engine_args: Mapping[str, object] | None = None,
) -> AsyncIterator[VllmEngine]:
    """Run a real engine and its builder, and leave nothing of them."""
    config = EngineConfig(
        base_dir=base,
        facts=facts,
        max_context=max_context,
        slots=SLOTS,
        host_capacity=SLOTS,
        max_sequences=16,
        max_logprobs=5,
        threads=1,
        compile_seconds=5,
        execution=Execution(
            dtype=dtype,
            tensor_parallel=tensor_parallel,
            kv_cache_bytes=32 << 20,
            engine_args=engine_args or {},
        ),
    )
    with TemporaryDirectory() as folder:
        building = replace(builder_config(base, Path(folder)), dtype=dtype)
        async with (
            open_builder(building, SystemClock()) as builder,
            quietly(started(config, builder)) as engine,
        ):
            yield engine


async def answer(engine: VllmEngine, adapter: Any, *, seed: int, count: int = 12, length: int = 9) -> Answer:
    """Sample from vLLM at temperature 1, so that many experts work; ``adapter`` is a LoRARequest or None."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    prompt = [int(token) for token in np.random.default_rng(seed).integers(3, 250, length)]
    sampling = SamplingParams(
        max_tokens=count,
        temperature=1.0,
        seed=seed,
        ignore_eos=True,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    requests = engine._llm.generate(
        tokens_input(prompt), sampling, secrets.token_hex(8), lora_request=adapter
    )
    (output,) = [output async for output in requests]
    (completion,) = output.outputs
    if completion.finish_reason == "error":
        raise unanswered(completion, served=adapter.lora_name)
    tokens = tuple(completion.token_ids)
    assert len(tokens) == count
    chosen = zip(tokens, completion.logprobs, strict=True)
    return Answer(tuple(prompt), tokens, tuple(entry[token].logprob for token, entry in chosen))


def logprobs_under(model: torch.nn.Module, answers: Sequence[Answer]) -> list[list[float]]:
    """Return the log-probabilities of the answers' tokens under a transformers model."""
    found = []
    for one in answers:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*one.prompt, *one.tokens]])).logits[0]
        first = len(one.prompt) - 1
        rows = logits.log_softmax(-1)
        found.append([rows[first + i, token].item() for i, token in enumerate(one.tokens)])
    return found


def load_base(folder: Path) -> torch.nn.Module:
    """Return the base in transformers."""
    model: torch.nn.Module = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def merged(base: Path, facts: BaseFacts, tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """Return the base with a packed adapter added to its weights, expert by expert."""
    model = load_base(base)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for module in facts.modules:
            a, b = (tensors[peft_name(module, half)] for half in ("A", "B"))
            parameters[f"{module}.weight"] += b @ a
        for module, layer in facts.experts.items():
            if packed_name(module, "gate_proj", "A") not in tensors:
                continue
            gate_up, down = parameters[f"{module}.gate_up_proj"], parameters[f"{module}.down_proj"]
            for expert in range(layer.count):
                delta = {
                    leaf: tensors[packed_name(module, leaf, "B")][expert]
                    @ tensors[packed_name(module, leaf, "A")][expert]
                    for leaf in layer.projections
                }
                gate_up[expert] += torch.cat([delta["gate_proj"], delta["up_proj"]])
                down[expert] += delta["down_proj"]
    return model


def max_difference(expected: list[list[float]], answers: Sequence[Answer]) -> float:
    """Return the largest difference in log-probability."""
    return max(
        abs(a - b)
        for row, one in zip(expected, answers, strict=True)
        for a, b in zip(row, one.logprobs, strict=True)
    )


@dataclass
class Served:
    """An engine over a base with experts, and adapters that it holds under numbers of their own."""

    engine: VllmEngine
    base: Path
    facts: BaseFacts
    number: int = 0
    held: list[Any] = field(default_factory=list)

    async def load(self, folder: Path, *, slice_ms: float = 1e9) -> Any:
        """Bring an adapter folder into a slot, for which the oldest makes way; return its LoRARequest."""
        from vllm.lora.request import LoRARequest

        self.number += 1
        adapter = LoadedAdapter(
            digest=Digest(f"{folder.name}-{self.number}"), number=self.number, folder=folder
        )
        if len(self.held) == SLOTS:
            await self.engine.unload(self.held.pop(0).lora_int_id)
        await self.engine.stage(adapter)
        while not (await self.engine.activate(adapter, victim=None, slice_ms=slice_ms)).done:
            continue
        self.held.append(LoRARequest(adapter.digest, adapter.number, str(folder)))
        return self.held[-1]

    async def unload_all(self) -> None:
        """Empty the engine."""
        while self.held:
            await self.engine.unload(self.held.pop().lora_int_id)
        assert not await self.engine._llm.list_loras()

    async def sample(self, adapter: Any, *, seed: int = 1) -> Answer:
        """Sample one answer."""
        return await answer(self.engine, adapter, seed=seed)
