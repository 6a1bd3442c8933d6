"""Engines that start in seconds: processes forked from one that has imported vLLM, each with one base.

An engine here is vLLM's own loop without the loader's API around it: MinT's plugin, arguments, laying out
and worker extension are those of an engine of MinT's.
"""

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from mint_common.adapters_format import MANIFEST_FILE, WEIGHTS_FILE, BaseFacts, read_manifest
from mint_common.dtypes import Dtype
from services.loader.adapters.vllm.starting import EngineConfig, prepare_environment
from services.loader.core.execution import Execution

SLOTS = 4
Asked = tuple[Path | None, Sequence[int]]
"""An adapter's folder, None for the bare base, and a prompt."""


@dataclasses.dataclass(frozen=True)
class Answered:
    """A completion's tokens and log-probabilities, or why the engine refuses the adapter.

    ``routes`` are the experts of each token but the last, ``[tokens, layers, experts of a token]`` (uint16).
    """

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    routes: bytes = b""
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Ran:
    """The answers to each batch, and the layers of experts whose slots held packed tensors as laid out."""

    batches: list[list[Answered]]
    packed: frozenset[str]


def forks() -> ForkServerContext:
    """Return where processes come from; the first call of a session imports vLLM."""
    os.environ.update(TORCH_COMPILE_DISABLE="1", VLLM_LOGGING_LEVEL="ERROR", TRANSFORMERS_VERBOSITY="error")
    prepare_environment(threads=1)
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.loader.preloaded"])
    return context


def answers(
    base: Path,
    facts: BaseFacts,
    batches: Sequence[Sequence[Asked]],
    execution: Execution,
    *,
    count: int,
    context: int,
) -> Ran:
    """Return what a new engine answers to each batch, whose adapters are in slots together."""
    config = EngineConfig(
        base_dir=base,
        facts=facts,
        max_context=context,
        slots=SLOTS,
        host_capacity=SLOTS,
        max_sequences=8,
        max_logprobs=1,
        threads=1,
        compile_seconds=5,
        execution=execution,
    )
    with ProcessPoolExecutor(1, mp_context=forks()) as pool:
        return pool.submit(_run, config, batches, count).result()


def _run(config: EngineConfig, batches: Sequence[Sequence[Asked]], count: int) -> Ran:
    import logging

    from vllm.model_executor.models import registry

    logging.disable(logging.WARNING)
    registry._run_in_subprocess = lambda inspect: inspect()
    engine = _engine(config)
    found, number, packed = [], 0, set[str]()
    for batch in batches:
        numbers = range(number + 1, number + 1 + len(batch))
        asked = dict(zip(numbers, batch, strict=True))
        found.append(_answered(engine, config, asked, count=count))
        packed.update(*engine.collective_rpc(_packed_layers))
        engine.collective_rpc("mint_drop", args=(list(asked),))
        number += len(batch)
    return Ran(found, frozenset(packed))


def _packed_layers(worker: Any) -> set[str]:
    """Return the layers of experts with a slot that tensors were copied into as the builder laid them out."""
    from vllm.lora.layers import FusedMoEWithLoRA

    modules = worker.model_runner.lora_manager._adapter_manager.modules
    return {
        name
        for name, module in modules.items()
        if type(module) is FusedMoEWithLoRA and module.__dict__.get("_mint_filled_slots")
    }


def _engine(config: EngineConfig) -> Any:
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.llm_engine import LLMEngine

    from services.loader.adapters.vllm.starting import engine_arguments

    arguments = engine_arguments(config)
    arguments = dataclasses.replace(arguments, scheduler_cls=None, additional_config={})
    return LLMEngine.from_vllm_config(arguments.create_engine_config(UsageContext.LLM_CLASS))


def _answered(engine: Any, config: EngineConfig, asked: dict[int, Asked], *, count: int) -> list[Answered]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    from services.loader.adapters.vllm.routes import ASKED

    sampling = SamplingParams(max_tokens=count, temperature=1.0, seed=1, ignore_eos=True, logprobs=0)
    dtype = config.execution.dtype
    problems = {number: _load(engine, number, folder, dtype) for number, (folder, _) in asked.items()}
    for number, (folder, prompt) in asked.items():
        if not problems[number]:
            lora = LoRARequest(f"a{number}", number, str(folder)) if folder else None
            given, noted = {"prompt_token_ids": list(prompt)}, sampling.clone()
            noted.extra_args = {ASKED: (str(number), 1)} if config.facts.experts else None
            engine.add_request(str(number), given, noted, lora_request=lora)
    done: dict[int, Answered] = {}
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.finished:
                (one,) = output.outputs
                tokens = tuple(one.token_ids)
                logprobs = tuple(at[t].logprob for t, at in zip(tokens, one.logprobs, strict=True))
                name = output.request_id.partition("-")[0]
                if one.finish_reason == "error":
                    done[int(name)] = Answered(problem=str(one.stop_reason))
                    continue
                (reply,) = engine.collective_rpc("mint_routes", args=(name,))
                done[int(name)] = Answered(tokens, logprobs, reply["routes"].get("0", b""))
    return [done.get(number) or Answered(problem=problems[number]) for number in asked]


def _load(engine: Any, number: int, folder: Path | None, dtype: Dtype) -> str:
    from services.loader.adapters.builder.laying_out import lay_out

    if folder is None:
        return ""
    rank = read_manifest((folder / MANIFEST_FILE).read_bytes()).rank
    laid_out = lay_out(folder / WEIGHTS_FILE, rank=rank, dtype=dtype)
    memory = laid_out.rank, laid_out.path, laid_out.begin, laid_out.tensor_index
    (reply,) = engine.collective_rpc("mint_activate", args=(number, None, 1e9, memory, []))
    os.close(laid_out.handle)
    return str(reply.get("problem", ""))
