"""The engine's own start and load path over a small base, and its answers to every adapter in one batch."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from mint_common.adapters_format import BaseFacts, read_base_facts, served_targets
from mint_common.errors import AdapterInvalid, EngineFailed, MintError
from mint_common.generation import SampleRequest, Sampling, float32s, int32s
from mint_common.ids import Digest, TenantId
from mint_common.inference.operations import ApiOperation
from mint_common.probing import ADAPTERS, BARE, BASE, BOTH, EngineAnswer, EngineFindings, ProbeRequest
from mint_common.runtime.clock import SystemClock
from mint_common.settings import BlobSettings
from services.loader.adapters.builder.client import BuilderConfig, open_builder
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import (
    EngineConfig,
    find_device,
    plan_for_device,
    prepare_environment,
    start_engine,
)
from services.loader.core.execution import Asked
from services.loader.ports import ApiCall, ApiWork, LoadedAdapter

_CONTEXT = 512
_SAMPLED = 6
_KV_BYTES = 64 << 20
_GPU_SHARE = 0.1
"""A stack may run on the same GPU."""
_TENANT = TenantId("probe")


async def answer_probe(folder: Path, request: ProbeRequest) -> EngineFindings:
    """Start an engine, load every adapter, and return its answers.

    The adapters are there once a line is on standard input: making them takes less time than the start.
    """
    prepare_environment(threads=1)  # before vLLM is imported, which reads it
    facts = read_base_facts(folder / BASE)
    if problem := no_lora(facts.architecture):
        return EngineFindings(problem=problem)
    names = [*BOTH, *served_targets(facts)]
    async with _engine(folder / BASE, facts, slots=len(names)) as engine:
        await asyncio.to_thread(sys.stdin.readline)
        loaded, refused = await _load(engine, folder, names)
        with_routes = bool(facts.experts) and not engine.no_routes

        async def ask(adapter: LoadedAdapter | None) -> EngineAnswer | None:
            try:
                return await _answer(engine, request.prompt, adapter, routes=with_routes)
            except EngineFailed as error:  # a fault of this adapter, or of the bare base
                refused[adapter.digest if adapter else BARE] = str(error)
                return None

        answers = await asyncio.gather(*map(ask, [None, *loaded.values()]))
        chats = [await _tokenized(engine, facts, chat) for chat in request.chats]
        try:
            await _answer(engine, request.prompt[:1], None)
            one_token = ""
        except EngineFailed as error:
            one_token = str(error)
        return EngineFindings(
            dtype=engine.dtype,
            answers=tuple(one for one in answers if one is not None),
            refused=refused,
            problem="" if any(answers) else refused[BARE],
            chats=tuple(chats),
            one_token=one_token,
        )


def no_lora(architecture: str) -> str:
    """Return why vLLM serves no adapter of an architecture, "" where its class takes LoRA or it has none."""
    import vllm
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    known = ModelRegistry.models.get(architecture)
    if known is None or supports_lora(known.load_model_cls()):
        return ""
    return f"vLLM {vllm.__version__} serves {architecture} without LoRA, so that no adapter has an effect"


@asynccontextmanager
async def _engine(base: Path, facts: BaseFacts, *, slots: int) -> AsyncIterator[VllmEngine]:
    is_gpu = find_device().kind == "cuda"
    asked = Asked(gpu_memory_utilization=_GPU_SHARE) if is_gpu else Asked(kv_cache_bytes=_KV_BYTES)
    execution = plan_for_device(asked, base_dir=base, threads=1)
    config = EngineConfig(
        base_dir=base,
        facts=facts,
        max_context=min(facts.max_context, _CONTEXT),
        slots=slots,
        host_capacity=slots,
        max_sequences=slots + 1,
        max_logprobs=1,
        threads=1,
        compile_seconds=1,
        execution=execution,
        stats=False,
    )
    with TemporaryDirectory(prefix="mint-probe-") as scratch:
        building = BuilderConfig(
            blobs=BlobSettings(url=f"file://{scratch}/blobs"),
            base_dir=base,
            cache_dir=Path(scratch) / "cache",
            disk_bytes=1 << 30,
            silence_seconds=60.0,
            dtype=execution.dtype,
        )
        async with open_builder(building, SystemClock()) as builder:
            engine = start_engine(config, builder)
            try:
                yield engine
            finally:
                engine.close()


async def _load(
    engine: VllmEngine, folder: Path, names: Sequence[str]
) -> tuple[Mapping[str, LoadedAdapter], dict[str, str]]:
    loaded: dict[str, LoadedAdapter] = {}
    refused: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        adapter = LoadedAdapter(digest=Digest(name), number=number, folder=folder / ADAPTERS / name)
        try:
            await engine.stage(adapter)
            while not (await engine.activate(adapter, victim=None, slice_ms=1e9)).done:
                pass
        except (AdapterInvalid, EngineFailed) as error:
            refused[name] = str(error)
            continue
        loaded[name] = adapter
    return loaded, refused


async def _answer(
    engine: VllmEngine, prompt: Sequence[int], adapter: LoadedAdapter | None, *, routes: bool = False
) -> EngineAnswer:
    """Sample at the highest temperature, where unlikely tokens come too: those of likely ones tell little."""
    name = adapter.digest if adapter else BARE
    request = SampleRequest(
        request_id=f"probe-{name}-{len(prompt)}",
        tenant_id=_TENANT,
        revision=None,
        tokens=tuple(prompt),
        sampling=Sampling(max_new_tokens=_SAMPLED, temperature=2.0, seed=1, ignore_eos=True),
        prompt_logprobs=0,
        routes=routes,
    )
    sample = await engine.sample(request, request_id=request.request_id, adapter=adapter)
    (sequence,) = sample.sequences
    assert sample.prompt_logprobs is not None
    return EngineAnswer(
        adapter=name,
        tokens=(*prompt, *int32s(sequence.tokens)),
        logprobs=(*float32s(sample.prompt_logprobs)[1:], *float32s(sequence.logprobs)),
        routes=sequence.routes,
    )


async def _tokenized(
    engine: VllmEngine, facts: BaseFacts, chat: Sequence[Mapping[str, str]]
) -> tuple[int, ...] | None:
    """Return the tokens that the engine would be given for a conversation, None if it refuses it."""
    body = {"messages": list(chat), "add_generation_prompt": True}
    call = ApiCall(
        operation=ApiOperation.TOKENIZE,
        body=json.dumps(body).encode(),
        model=facts.name,
        request_id="probe",
        tenant_id=_TENANT,
        revision=None,
    )
    try:
        parts = [part async for part in engine.serve(call, admission=_no_admission)]
    except MintError:
        return None
    answer = json.loads(b"".join(part for part in parts if isinstance(part, bytes)))
    return tuple(answer["tokens"])


def _no_admission(_work: ApiWork) -> NoReturn:
    raise AssertionError("nothing is generated for it")
