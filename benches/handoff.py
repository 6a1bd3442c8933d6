"""How long until a trained policy is sampled from: as an adapter, or as a merged model?

Both roads end with the same 64-token rollout on a real vLLM engine on CPU, float32. The adapter's: export,
publish, stage, into a slot. The merged model's: merge, save, start an engine on it. The ratio is the MinT
paper's (arXiv 2605.13779, Table 3: 18.3 for 4B, with the rollout in both sums).
"""

import asyncio
import copy
import os
import secrets
import shutil
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benches.report import Report, Row, make_row
from benches.serving import scratch_folder
from benches.trainer_bases import smollm2_folder
from mint_common.adapters_format import (
    WEIGHTS_FILE,
    BaseFacts,
    build_adapter,
    read_base_facts,
    stage_adapter,
    store_adapter,
)
from mint_common.blobs.localfs import LocalBlobs
from mint_common.events import LoraSpec
from mint_common.generation import Sampling
from mint_common.ids import PolicyId, TenantId
from services.loader.adapters.vllm_engine import EngineConfig, VllmEngine, start_engine
from services.loader.ports import LoadedAdapter
from services.trainer.adapters.lora import LoraTensors, folded_arrays, new_lora

RANKS, STEP_RANK = (1, 8, 32), 32
ADAPTER_ROUNDS, MERGED_ROUNDS, NEW_TOKENS = 5, 2, 64
PROMPT = tuple(range(100, 116))


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


def run() -> Report:
    """Measure."""
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    torch.set_num_threads(1)
    with scratch_folder() as folder:
        adapters, merged = asyncio.run(_measure(folder))
    rows = _rows(adapters, merged)
    return Report(bench="handoff", rows=rows, draw=lambda figure: _draw(figure, adapters, merged))


async def _measure(folder: Path) -> tuple[dict[int, list[Phases]], list[Phases]]:
    base = smollm2_folder()
    facts = read_base_facts(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    policies = {rank: _trained(facts, rank) for rank in RANKS}
    engine = _start(base, facts)
    await _rollout(engine, None)
    adapters: dict[int, list[Phases]] = {rank: [] for rank in RANKS}
    for number in range(ADAPTER_ROUNDS * len(RANKS)):
        rank = RANKS[number % len(RANKS)]
        adapters[rank].append(await _hand_over_adapter(engine, facts, policies[rank], folder, number + 1))
    engine.close()
    merged = [
        await _hand_over_merged(model, base, facts, policies[STEP_RANK], folder / f"merged{number}")
        for number in range(MERGED_ROUNDS)
    ]
    return adapters, merged


def _trained(facts: BaseFacts, rank: int) -> LoraTensors:
    spec = LoraSpec(rank=rank, alpha=float(rank), targets=facts.targets, seed=0)
    tensors = new_lora(facts, spec)
    with torch.no_grad():
        for name, view in tensors.named():
            if ".lora_B." in name:
                view.normal_(std=0.01)
    return tensors


async def _hand_over_adapter(
    engine: VllmEngine, facts: BaseFacts, tensors: LoraTensors, folder: Path, number: int
) -> Phases:
    # Another step's weights each time: nothing of an earlier round can be reused.
    tensors.leaf.detach().mul_(1.0001)
    blobs = LocalBlobs(folder / "blobs")
    started = time.perf_counter()
    files = build_adapter(
        facts=facts,
        policy_id=PolicyId("policy"),
        step=number,
        parent=None,
        rank=tensors.rank,
        tensors=folded_arrays(tensors),
    )
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


async def _hand_over_merged(
    model: torch.nn.Module, base: Path, facts: BaseFacts, tensors: LoraTensors, folder: Path
) -> Phases:
    merged = copy.deepcopy(model)
    started = time.perf_counter()
    parameters = dict(merged.named_parameters())
    pairs = list(zip(tensors.layout.parts, (view for _, view in tensors.named()), strict=True))
    with torch.no_grad():
        for (part, a), (_, b) in zip(pairs[::2], pairs[1::2], strict=True):
            parameters[f"{part.site.name}.weight"].addmm_(b, a, alpha=tensors.scale)
    merged.save_pretrained(folder)
    made = time.perf_counter()
    for file in base.iterdir():
        if not (folder / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy2(file, folder / file.name)
    loading = time.perf_counter()
    engine = _start(folder, facts)
    loaded = time.perf_counter()
    await _rollout(engine, None)
    ended = time.perf_counter()
    engine.close()
    size_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Phases(make=made - started, load=loaded - loading, rollout=ended - loaded, size_bytes=size_bytes)


def _start(base: Path, facts: BaseFacts) -> VllmEngine:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return start_engine(
            EngineConfig(
                base_dir=base,
                facts=facts,
                max_context=256,
                slots=2,
                host_capacity=4,
                max_sequences=4,
                kv_cache_bytes=64 << 20,
                max_logprobs=1,
                threads=1,
            )
        )


async def _rollout(engine: VllmEngine, adapter: LoadedAdapter | None) -> None:
    stream = engine.generate(
        request_id=secrets.token_hex(8),
        prompt=PROMPT,
        sampling=Sampling(max_new_tokens=NEW_TOKENS, temperature=1.0, seed=0, ignore_eos=True, whole=True),
        adapter=adapter,
        tenant_id=TenantId("bench"),
    )
    async for _ in stream.steps():
        pass


def _rows(adapters: dict[int, list[Phases]], merged: Sequence[Phases]) -> list[Row]:
    ours = adapters[STEP_RANK]
    slow = Phases(
        make=statistics.median(one.make for one in merged),
        load=statistics.median(one.load for one in merged),
        rollout=statistics.median(one.rollout for one in merged),
        size_bytes=merged[0].size_bytes,
    )
    rollout = statistics.median(one.rollout for one in ours)
    shown = f"merge and save {slow.make:.2f} s, engine load {slow.load:.2f} s, rollout {slow.rollout:.2f} s"
    mine = f"export and publish {_median_ms(ours, 'make'):.0f} ms, load {_median_ms(ours, 'load'):.0f} ms"
    return [
        make_row(
            "handoff_step_ratio",
            [slow.step / one.step for one in ours],
            unit="ratio",
            goal=2.85,
            better="higher",
            limit=slow.step / rollout,
            how=f"smollm2, rank {STEP_RANK}, {NEW_TOKENS}-token rollout on both sides: {shown}; adapter: "
            f"{mine}, rollout {rollout:.2f} s. Goal: the paper's on 30B, for want of one for 135M. Limit: an "
            "adapter that takes no time",
        ),
        make_row(
            "handoff_transfer_ratio",
            [slow.transfer / one.transfer for one in ours],
            unit="ratio",
            goal=12.0,
            better="higher",
            how=f"the same without the rollout: {shown}; adapter: {mine}",
        ),
        *(
            make_row(
                f"handoff_bytes_ratio_rank{rank}",
                [slow.size_bytes / phases[0].size_bytes],
                unit="ratio",
                goal=1.0,
                better="higher",
                how=f"{slow.size_bytes / 1e6:.0f} MB, {phases[0].size_bytes / 1e6:.2f} MB of adapter; "
                f"transfer {_median_ms(phases, 'transfer'):.0f} ms",
            )
            for rank, phases in adapters.items()
        ),
    ]


def _median_ms(phases: Sequence[Phases], name: str) -> float:
    return 1e3 * statistics.median(float(getattr(one, name)) for one in phases)


def _draw(figure: Any, adapters: dict[int, list[Phases]], merged: Sequence[Phases]) -> None:
    plot = figure.subplots()
    roads = {**{f"adapter, rank {rank}": phases for rank, phases in adapters.items()}, "merged": merged}
    bottom = [0.0] * len(roads)
    for name in ("make", "load", "rollout"):
        heights = [_median_ms(phases, name) / 1e3 for phases in roads.values()]
        plot.bar(list(roads), heights, bottom=bottom, label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    plot.set_ylabel("seconds, median")
    plot.legend()
