"""How long until a trained policy is sampled from: as an adapter, or as a merged model?

Both roads end with the same 64-token rollout on a real vLLM engine, in the dtype that suits its device. The
adapter's: export, publish, stage, into a slot. The merged model's: merge and save (`merge_adapter`), start an
engine on it. The ratio is the MinT paper's (arXiv 2605.13779, Table 3: 18.3 for 4B, 2.85 for 30B, with the
rollout in both). On CPU that rollout takes seconds on either road: even an adapter in no time, a row's limit,
stays far below 18.3. The transfer ratio is the hand-over by itself.
"""

import asyncio
import secrets
import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benches.adapters import write_adapter
from benches.device import one_thread
from benches.engines import base_engine, engine_config, open_engine
from benches.handoff_bases import handoff_folder
from benches.machine import DeviceName
from benches.report import Report, Row, make_row
from benches.stacks import scratch_folder
from mint_common.adapters_format import (
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    build_adapter,
    read_base_facts,
    stage_adapter,
    store_adapter,
)
from mint_common.adapters_format.merge import merge_adapter
from mint_common.blobs.localfs import LocalBlobs
from mint_common.events import LoraSpec
from mint_common.generation import SampleRequest, Sampling
from mint_common.ids import PolicyId, TenantId
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.adapters.vllm.starting import EngineConfig
from services.loader.ports import LoadedAdapter
from services.trainer.adapters.lora.tensors import LoraTensors, folded_arrays, new_lora

NEW_TOKENS = 64
PROMPT = tuple(range(100, 116))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A base, the ranks whose hand-over is timed, and the rank and goal of its ratio."""

    base: str
    suffix: str
    ranks: tuple[int, ...]
    step_rank: int
    goal: float
    why: str
    device: DeviceName | None = None
    """The only one on which it is worth its time."""


CASES = (
    Case(
        base="smollm2",
        suffix="",
        ranks=(1, 8, 32),
        step_rank=32,
        goal=2.85,
        why="the paper's on 30B, for want of one for 135M",
    ),
    Case(
        base="dense600m",
        suffix="_600m",
        ranks=(32,),
        step_rank=32,
        goal=18.3,
        why="the paper's on 4B; random weights in the shape of Qwen3-0.6B",
    ),
    Case(
        base="moe190m",
        suffix="_moe",
        ranks=(16,),
        step_rank=16,
        goal=2.85,
        why="the paper's on 30B-A3B; random Qwen3-MoE, 12 layers of 32 experts, LoRA on all of them",
    ),
    Case(
        base="dense4b",
        suffix="_4b",
        ranks=(32,),
        step_rank=32,
        goal=18.3,
        why="the paper's on 4B; random weights in the shape of Qwen3-4B, bfloat16",
        device="cuda",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds of one hand-over: making the file, loading it, and the rollout; and the file's size."""

    make: float
    load: float
    rollout: float
    size_bytes: int

    @property
    def transfer(self) -> float:
        """Return the seconds without the rollout."""
        return self.make + self.load

    @property
    def step(self) -> float:
        """Return the seconds with the rollout."""
        return self.transfer + self.rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Both roads of a case; the adapters' by rank."""

    case: Case
    adapters: Mapping[int, list[Phases]]
    merged: list[Phases]


def run(*, device: DeviceName = "cpu") -> Report:
    """Measure."""
    return report(measure(device=device))


def measure(*, rounds: int = 5, merged_rounds: int = 3, device: DeviceName = "cpu") -> list[Measured]:
    """Take both roads of every case of the device, so many times each."""
    one_thread()
    measured = []
    for case in (case for case in CASES if case.device in {None, device}):
        with scratch_folder() as folder:
            measured.append(asyncio.run(_measure(case, folder, rounds, merged_rounds)))
    return measured


def report(measured: Sequence[Measured]) -> Report:
    """Return the rows of what was measured."""
    rows = [row for one in measured for row in _rows(one)]
    return Report(bench="handoff", rows=rows, draw=lambda figure: draw(figure, measured))


async def _measure(case: Case, folder: Path, rounds: int, merged_rounds: int) -> Measured:
    base = handoff_folder(case.base)
    facts = read_base_facts(base)
    policies = {rank: _trained(facts, rank) for rank in case.ranks}
    adapters: dict[int, list[Phases]] = {rank: [] for rank in case.ranks}
    async with open_engine(_config(base, facts)) as engine:
        await _rollout(engine, None)
        for number in range(rounds * len(case.ranks)):
            rank = case.ranks[number % len(case.ranks)]
            adapters[rank].append(await _hand_over_adapter(engine, facts, policies[rank], folder, number + 1))
    adapter = write_adapter(_built(facts, policies[case.step_rank], 0), folder / "adapter")
    merged = []
    for number in range(merged_rounds):
        merged.append(await _hand_over_merged(base, facts, adapter, folder / f"merged{number}"))
        shutil.rmtree(folder / f"merged{number}")
    return Measured(case=case, adapters=adapters, merged=merged)


def _trained(facts: BaseFacts, rank: int) -> LoraTensors:
    spec = LoraSpec(rank=rank, alpha=float(rank), targets=facts.targets, seed=0)
    tensors = new_lora(facts, spec)
    with torch.no_grad():
        for name, view in tensors.named():
            if ".lora_B." in name:
                view.normal_(std=0.01)
    return tensors


def _built(facts: BaseFacts, tensors: LoraTensors, step: int) -> AdapterFiles:
    return build_adapter(
        facts=facts,
        policy_id=PolicyId("policy"),
        step=step,
        parent=None,
        rank=tensors.rank,
        tensors=folded_arrays(tensors),
    )


async def _hand_over_adapter(
    engine: VllmEngine, facts: BaseFacts, tensors: LoraTensors, folder: Path, number: int
) -> Phases:
    # Another step's weights each time: nothing of an earlier round can be reused.
    tensors.leaf.detach().mul_(1.0001)
    blobs = LocalBlobs(folder / "blobs")
    started = time.perf_counter()
    files = _built(facts, tensors, number)
    claim = await store_adapter(blobs, files, export_id=f"export{number}")
    made = time.perf_counter()
    staged = folder / f"staged{number}"
    manifest = await stage_adapter(blobs, claim, staged)
    adapter = LoadedAdapter(digest=manifest.digest, number=number, folder=staged)
    await engine.stage(adapter)
    while not (await engine.activate(adapter, victim=None, slice_ms=1000.0)).done:
        pass
    loaded = time.perf_counter()
    await _rollout(engine, adapter)
    ended = time.perf_counter()
    await engine.unload(number)
    size_bytes = len(files.files[WEIGHTS_FILE])
    return Phases(make=made - started, load=loaded - made, rollout=ended - loaded, size_bytes=size_bytes)


async def _hand_over_merged(base: Path, facts: BaseFacts, adapter: Path, folder: Path) -> Phases:
    started = time.perf_counter()
    size_bytes = merge_adapter(facts, base, adapter, folder)
    made = time.perf_counter()
    engine = base_engine(_config(folder, facts))
    loaded = time.perf_counter()
    await _rollout(engine, None)
    ended = time.perf_counter()
    engine.close()
    return Phases(make=made - started, load=loaded - made, rollout=ended - loaded, size_bytes=size_bytes)


def _config(base: Path, facts: BaseFacts) -> EngineConfig:
    return engine_config(base, facts, slots=2, host=4, sequences=4, max_context=256, kv_bytes=128 << 20)


async def _rollout(engine: VllmEngine, adapter: LoadedAdapter | None) -> None:
    request = SampleRequest(
        request_id=secrets.token_hex(8),
        tenant_id=TenantId("bench"),
        revision=None,
        tokens=PROMPT,
        sampling=Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=0, ignore_eos=True),
    )
    await engine.sample(request, request_id=request.request_id, adapter=adapter)


def _rows(measured: Measured) -> list[Row]:
    case, merged = measured.case, measured.merged
    ours = measured.adapters[case.step_rank]
    slow, rollout = middle(merged), middle(ours).rollout
    shown = (
        f"merge and save {slow.make:.2f} s, engine load {slow.load:.2f} s, rollout {slow.rollout:.2f} s "
        f"(n={len(merged)})"
    )
    mine = f"export and publish {_median_ms(ours, 'make'):.0f} ms, load {_median_ms(ours, 'load'):.0f} ms"
    return [
        make_row(
            f"handoff_step_ratio{case.suffix}",
            [slow.step / one.step for one in ours],
            unit="ratio",
            goal=case.goal,
            better="higher",
            limit=slow.step / rollout,
            how=f"{case.base}, rank {case.step_rank}, {NEW_TOKENS}-token rollout on both sides: {shown}; "
            f"adapter: {mine}, rollout {rollout:.2f} s. Goal: {case.why}. Limit: an adapter in no time",
        ),
        make_row(
            f"handoff_transfer_ratio{case.suffix}",
            [slow.transfer / one.transfer for one in ours],
            unit="ratio",
            goal=12.0,
            better="higher",
            how=f"the same without the rollout: {shown}; adapter: {mine}",
        ),
        *(
            make_row(
                f"handoff_bytes_ratio{case.suffix}_rank{rank}",
                [slow.size_bytes / phases[0].size_bytes],
                unit="ratio",
                goal=1.0,
                better="higher",
                how=f"{slow.size_bytes / 1e6:.0f} MB, {phases[0].size_bytes / 1e6:.2f} MB of adapter; "
                f"transfer {_median_ms(phases, 'transfer'):.0f} ms",
            )
            for rank, phases in measured.adapters.items()
        ),
    ]


def middle(phases: Sequence[Phases]) -> Phases:
    """Return the median of each phase."""
    return Phases(
        make=statistics.median(one.make for one in phases),
        load=statistics.median(one.load for one in phases),
        rollout=statistics.median(one.rollout for one in phases),
        size_bytes=phases[0].size_bytes,
    )


def _median_ms(phases: Sequence[Phases], name: str) -> float:
    return 1e3 * statistics.median(float(getattr(one, name)) for one in phases)


def draw(figure: Any, measured: Sequence[Measured]) -> None:
    """Draw where the seconds of each road go."""
    for plot, one in zip(figure.subplots(1, len(measured)), measured, strict=True):
        roads = {**{f"rank {rank}": phases for rank, phases in one.adapters.items()}, "merged": one.merged}
        bottom = [0.0] * len(roads)
        for name in ("make", "load", "rollout"):
            heights = [_median_ms(phases, name) / 1e3 for phases in roads.values()]
            plot.bar(list(roads), heights, bottom=bottom, label=name)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        plot.set(title=one.case.base, ylabel="seconds, median")
        plot.legend()
