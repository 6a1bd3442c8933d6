"""A trainer and an engine in bfloat16: how far apart they are, and whether exports are exact on the way."""

import asyncio
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benches.adapters import write_adapter
from benches.bases import base_folder
from benches.engines import engine_config, open_engine
from benches.stacks import scratch_folder
from benches.trainer_steps import Work, random_groups, state_on, step_policies
from mint_common.adapters_format import WEIGHTS_FILE, AdapterFiles, BaseFacts, build_adapter
from mint_common.adapters_format.tensor_file import map_tensors
from mint_common.events import LoraSpec
from mint_common.generation import SampleRequest, Sampling, float32s, int32s
from mint_common.ids import Digest, PolicyId, TenantId
from services.loader.adapters.builder.laying_out import lay_out
from services.loader.adapters.builder.wire import read_index
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.ports import LoadedAdapter
from services.rollout.adapters.tasks.progression import Progression
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import (
    MOMENTS,
    TrainingState,
    park_state,
    read_state,
    state_export,
    write_state,
)
from services.trainer.adapters.training.pass_sum import PassResult, PassWork
from services.trainer.adapters.training.passes import run_passes
from services.trainer.core.batch import Row
from services.trainer.core.operations import ExportLineage
from services.trainer.core.packing import pack_rows

RANK, POLICIES, PROMPTS, GROUP, ANSWERS = 16, 5, 8, 4, 16
STEPS = 2


@dataclass(slots=True, kw_only=True)
class Agreement:
    """What was found: ``kl`` of each policy, and how many numbers differ, by what was compared."""

    kl: list[float] = field(default_factory=list)
    kl_of_base: list[float] = field(default_factory=list)
    tokens: int = 0
    differing: dict[str, int] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """Return on what."""
        return f"{PROMPTS} progressions, {GROUP} samples each, rank {RANK}"


def compare_with_engine(base: ResidentBase) -> Agreement:
    """Sample from policies on an engine in bfloat16, and compare; ``base`` is the trainer's in bfloat16."""
    found = Agreement()
    with scratch_folder() as folder:
        asyncio.run(_compare(base, folder, found))
    return found


async def _compare(base: ResidentBase, folder: Path, found: Agreement) -> None:
    config = engine_config(
        base_folder("smollm2"),
        base.facts,
        slots=2,
        host=4,
        sequences=GROUP,
        max_context=256,
        kv_bytes=128 << 20,
        dtype="bfloat16",
    )
    async with open_engine(config) as engine:
        prompts = [
            await engine.tokenize(prompt.text, tenant_id=None)
            for prompt in Progression().prompts("train", PROMPTS, seed=0)
        ]
        serving = _Serving(engine, folder)
        for seed in range(POLICIES):
            state = _with_random_b(state_on(base, rank=RANK, seed=seed))
            answers = await serving.sample(_export(base.facts, state), prompts)
            found.kl.append(_kl(base, state, answers))
            found.kl_of_base.append(_kl(base, state_on(base, rank=RANK, seed=seed), answers))
            found.tokens = sum(len(row.tokens) for row in answers)
        await _compare_exports(base, serving, prompts, found)


class _Serving:
    """The engine, and the adapters that it gets."""

    def __init__(self, engine: VllmEngine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._number = 0

    async def sample(
        self, files: AdapterFiles, prompts: Sequence[tuple[int, ...]], *, at_once: int = GROUP
    ) -> list[Row]:
        """Return samples of an adapter with the engine's log-probabilities.

        One at once, they are the same every time: sums in bfloat16 round by how many sequences a step has.
        """
        self._number += 1
        folder = write_adapter(files, self._folder / f"adapter{self._number}")
        # A name of its own: what an earlier adapter of the same bytes left in the prefix cache is not used.
        digest = Digest(f"{files.digest}-{self._number}")
        adapter = LoadedAdapter(digest=digest, number=self._number, folder=folder)
        await self._engine.stage(adapter)
        while not (await self._engine.activate(adapter, victim=None, slice_ms=1e3)).done:
            pass
        rows = []
        for seed, prompt in enumerate(prompts):
            for part in range(GROUP // at_once):
                rows += await self._answers(adapter, prompt, seed + part * len(prompts), n=at_once)
        await self._engine.unload(adapter.number)
        return rows

    async def _answers(
        self, adapter: LoadedAdapter, prompt: tuple[int, ...], seed: int, *, n: int
    ) -> list[Row]:
        request = SampleRequest(
            request_id=secrets.token_hex(8),
            tenant_id=TenantId("bench"),
            revision=None,
            tokens=prompt,
            sampling=Sampling(max_new_tokens=ANSWERS, temperature=1.0, seed=seed, n=n, ignore_eos=True),
        )
        sampled = await self._engine.sample(request, request_id=request.request_id, adapter=adapter)
        return [
            Row(prompt=prompt, tokens=int32s(one.tokens), logprobs=float32s(one.logprobs), advantage=1.0)
            for one in sampled.sequences
        ]


def _kl(base: ResidentBase, state: TrainingState, answers: Sequence[Row]) -> float:
    """Return the KL of the sampler from a policy, as a job reports it for each step."""
    lines = pack_rows(answers, policy=0, max_length=base.microbatch_tokens)
    work = PassWork(lora=state.lora, step=0, lines=lines, loss=None, backward=False, is_sampled=True)
    (result,) = run_passes(base, [work], max_tokens=base.microbatch_tokens)
    assert isinstance(result, PassResult)
    return result.ratios.sampler_kl


async def _compare_exports(
    base: ResidentBase, serving: _Serving, prompts: Sequence[tuple[int, ...]], found: Agreement
) -> None:
    """Follow a policy that was stepped over the bfloat16 base: file, memory of an engine, checkpoint."""
    state = _with_random_b(state_on(base, rank=RANK, seed=POLICIES))
    batch = random_groups(base, groups=2, group=4, prompt=16, answers=16)
    for _ in range(STEPS):
        step_policies(base, [Work(state=state, batch=batch)], max_tokens=base.microbatch_tokens)
    expected = {name: view.cpu() for name, view in state.lora.named()}
    for name, view in expected.items():
        expected[name] = view * state.lora.scale if ".lora_B." in name else view
    export = _export(base.facts, state)
    with scratch_folder() as folder:
        weights = write_adapter(export, folder / "export") / WEIGHTS_FILE
        file = map_tensors(weights)
        stored = {entry.name: file.array(entry) for entry in file.header.tensors}
        laid_out = _laid_out(weights)
    # torch rounds here, the builder with integers of its own.
    narrow = {name: values.to(torch.bfloat16) for name, values in expected.items()}
    found.differing[_told("numbers of the file against the weights times alpha / r", expected)] = _unequal(
        {name: values.numpy().view(np.uint32) for name, values in expected.items()},
        {name: values.view(np.uint32) for name, values in stored.items()},
    )
    found.differing[_told("numbers of a bfloat16 engine against torch's rounding", narrow)] = _unequal(
        {name: values.view(torch.int16).numpy().view(np.uint16) for name, values in narrow.items()},
        laid_out,
    )
    spec = LoraSpec(rank=RANK, alpha=RANK * state.lora.scale, targets=base.facts.targets, seed=POLICIES)
    before, after = _numbers(state), _numbers(read_state(base.facts, spec, write_state(state)))
    count = sum(values.size for values in before.values())
    found.differing[f"{count:,} numbers of a checkpoint that is read back"] = _unequal(before, after)
    rounded = build_adapter(
        facts=base.facts,
        policy_id=PolicyId("policy"),
        step=STEPS,
        parent=None,
        rank=RANK,
        tensors={name: values.float().numpy() for name, values in narrow.items()},
    )
    once, twice = [await serving.sample(one, prompts, at_once=1) for one in (export, rounded)]
    count = sum(len(row.tokens) for row in once)
    found.differing[f"{count} tokens and log-probabilities of an engine that got it rounded before"] = sum(
        (token, value) != (other, second)
        for one, two in zip(once, twice, strict=True)
        for token, value, other, second in zip(
            one.tokens, one.logprobs, two.tokens, two.logprobs, strict=True
        )
    )


def _told(what: str, tensors: Mapping[str, torch.Tensor]) -> str:
    return f"{sum(values.numel() for values in tensors.values()):,} {what}"


def _export(facts: BaseFacts, state: TrainingState) -> AdapterFiles:
    after = ExportLineage(digest=None, parent=None)
    return state_export(facts, PolicyId("policy"), park_state(state), after).adapter


def _laid_out(weights: Path) -> dict[str, np.ndarray]:
    """Return the tensors as the builder gives them to a bfloat16 engine, bits as integers."""
    laid_out = lay_out(weights, rank=RANK, dtype="bfloat16")
    memory = np.frombuffer(Path(laid_out.path).read_bytes(), np.uint16)
    os.close(laid_out.handle)
    return {
        tensor.name: memory[tensor.begin : tensor.begin + int(np.prod(tensor.shape))].reshape(tensor.shape)
        for tensor in read_index(laid_out.tensor_index)
    }


def _numbers(state: TrainingState) -> dict[str, np.ndarray]:
    """Return the bits of everything that a state goes on with."""
    tensors = {"leaf": state.lora.leaf.detach(), **state.moments, "step": torch.tensor([state.step])}
    assert set(MOMENTS) <= tensors.keys()
    return {name: values.cpu().numpy().view(np.uint8) for name, values in tensors.items()}


def _unequal(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> int:
    """Return how many numbers differ."""
    assert expected.keys() == found.keys()
    return sum(int((values != found[name]).sum()) for name, values in expected.items())


def _with_random_b(state: TrainingState) -> TrainingState:
    """Make a policy one that answers otherwise than its base."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, view in state.lora.named():
            if ".lora_B." in name:
                view.copy_(0.03 * torch.randn(view.shape, generator=generator))
    return state
