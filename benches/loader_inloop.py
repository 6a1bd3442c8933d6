"""How long does a cold load hold the engine's loop up? Its slices, and the longest gap while 32 arrive.

Dense adapters, and packed ones of experts: of those the loop should do nothing but the copy into a slot.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import REGISTRY

from benches.adapters import Recipe, make_adapters, write_folders
from benches.bases import TINY
from benches.engines import engine_config, open_engine
from benches.moe_loads import EXPERTS, LAYERS, write_both
from benches.report import Report, Row, make_row
from benches.stacks import scratch_folder
from mint_common.adapters_format import WEIGHTS_FILE, read_base_facts
from mint_common.ids import PolicyId, sha256_digest
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.ports import LoadedAdapter

COLD, BURST, ROUNDS, SLOTS, SLICE_MS = 100, 32, 7, 40, 2.0
MOE_LOADS, MOE_RANK = 15, 4
MOE_ROWS = ("inloop_packed_moe_ms", "inloop_packed_over_copy", "inloop_packed_slice_ms")
WARM_TOKENS = 240


def run(only: str | None = None) -> Report:
    """Measure all, or what one row needs."""
    dense, moe = Dense(), Moe()
    with scratch_folder() as folder:
        if only not in MOE_ROWS:
            asyncio.run(_with_dense(folder, dense))
        if only in {None, *MOE_ROWS}:
            asyncio.run(_with_moe(folder, moe))
    rows = [*(_dense_rows(dense) if dense.whole else []), *(_moe_rows(moe) if moe.in_loop else [])]
    return Report(bench="loader_inloop", rows=rows, draw=lambda figure: _draw(figure, dense))


@dataclass(slots=True)
class Dense:
    """Milliseconds: in the loop and in all of each cold load; between tokens, in quiet and at each burst."""

    in_loop: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    quiet: list[list[float]] = field(default_factory=list)
    during: list[list[float]] = field(default_factory=list)


@dataclass(slots=True)
class Moe:
    """Milliseconds of each packed load: in the loop, its longest slice, the same bytes copied."""

    in_loop: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    size_bytes: int = 0


async def _with_dense(folder: Path, found: Dense) -> None:
    facts = read_base_facts(TINY)
    made = make_adapters(facts, PolicyId("bench"), COLD + BURST, Recipe(rank=8), seed=1)
    adapters = _adapters(write_folders(folder / "dense", made))
    async with open_engine(engine_config(TINY, facts, slots=SLOTS, host=COLD + BURST)) as engine:
        await _gaps(engine, 50)
        for adapter in adapters[:COLD]:
            began, stalled = time.perf_counter(), _mapping_ms()
            await engine.stage(adapter)
            part = await engine.activate(adapter, victim=None, slice_ms=SLICE_MS)
            found.whole.append((time.perf_counter() - began) * 1e3)
            found.in_loop.append(_mapping_ms() - stalled + part.stall_ms)
            await engine.unload(adapter.number)
        for _ in range(ROUNDS):
            found.quiet.append(await _gaps(engine, WARM_TOKENS))
            warm = asyncio.create_task(_gaps(engine, WARM_TOKENS))
            await asyncio.sleep(0.05)
            await _burst(engine, adapters[COLD:])
            found.during.append(await warm)
            for adapter in adapters[COLD:]:
                await engine.unload(adapter.number)


async def _with_moe(folder: Path, found: Moe) -> None:
    """Load one packed adapter again and again under new numbers, and copy its tensors into others in turn."""
    from tools.make_moe_base import make_moe_base

    base = folder / "moe-base"
    facts = make_moe_base(base, experts=EXPERTS, layers=LAYERS, expert_width=32)
    packed, _ = write_both(facts, folder / "moe", rank=MOE_RANK, dtype=np.float32)
    copy, found.size_bytes = _bare_copy(packed / WEIGHTS_FILE, slot_rank=facts.max_rank)
    async with open_engine(engine_config(base, facts, slots=2, host=4)) as engine:
        for adapter in _adapters([packed] * (MOE_LOADS + 1)):
            stalled = _mapping_ms()
            await engine.stage(adapter)
            stalls = [_mapping_ms() - stalled]
            while True:
                part = await engine.activate(adapter, victim=None, slice_ms=SLICE_MS)
                stalls.append(part.stall_ms)
                if part.done:
                    break
            await engine.unload(adapter.number)
            began = time.perf_counter()
            copy()
            if adapter.number > 1:  # the first one touches the slot's memory
                found.copy.append((time.perf_counter() - began) * 1e3)
                found.in_loop.append(sum(stalls))
                found.longest.append(max(stalls))


def _bare_copy(weights: Path, *, slot_rank: int) -> tuple[Callable[[], None], int]:
    """Return what copies an adapter's tensors into places as wide as a slot's, and their bytes."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    pairs = []
    for name, tensor in load_file(weights).items():
        if name.startswith("pad."):
            continue
        shape, side = list(tensor.shape), -2 if ".lora_A." in name else -1
        rank, shape[side] = shape[side], slot_rank
        pairs.append((torch.ones(shape).narrow(side, 0, rank), tensor.clone()))

    def copy() -> None:
        for target, source in pairs:
            target.copy_(source)

    return copy, sum(source.nbytes for _, source in pairs)


def _mapping_ms() -> float:
    """Return how long mapping adapters has held the engine's loop up so far."""
    return 1e3 * (REGISTRY.get_sample_value("mint_loader_stall_seconds_sum") or 0.0)


def _adapters(folders: Sequence[Path]) -> list[LoadedAdapter]:
    return [
        LoadedAdapter(digest=sha256_digest(str(n).encode()), number=n, folder=folder)
        for n, folder in enumerate(folders, 1)
    ]


def _dense_rows(found: Dense) -> list[Row]:
    steps = [statistics.median(gaps) for gaps in found.quiet]
    return [
        make_row(
            "inloop_dense_ms",
            found.in_loop,
            unit="ms",
            goal=0.5,
            better="lower",
            how=f"engine-loop time of {COLD} cold dense loads, rank 8: mapping what the builder laid "
            "out, and the copy into a slot",
        ),
        make_row(
            "stall_over_step",
            [max(gaps) / step for gaps, step in zip(found.during, steps, strict=True)],
            unit="x",
            goal=3.0,
            better="lower",
            limit=statistics.median(max(gaps) / step for gaps, step in zip(found.quiet, steps, strict=True)),
            how=f"longest gap between {WARM_TOKENS} tokens while {BURST} cold loads arrive, over the median "
            f"gap in quiet just before; the median of {ROUNDS} bursts. Limit: the longest in quiet, likewise",
        ),
        make_row(
            "cold_load_ms",
            found.whole,
            unit="ms",
            goal=10.0,
            better="lower",
            how="from the local files to a slot of an engine at rest",
        ),
    ]


def _moe_rows(found: Moe) -> list[Row]:
    size = f"{found.size_bytes / 1e6:.0f} MB, {LAYERS} layers x {EXPERTS} experts x 3, rank {MOE_RANK}"
    return [
        make_row(
            "inloop_packed_moe_ms",
            found.in_loop,
            unit="ms",
            goal=2 * statistics.median(found.copy),
            better="lower",
            limit=statistics.median(found.copy),
            how=f"engine-loop time of one cold load of a packed MoE adapter, all slices together; {size}. "
            "Limit: the same tensors copied into places as wide as a slot's, and nothing else",
        ),
        make_row(
            "inloop_packed_over_copy",
            [mine / bare for mine, bare in zip(found.in_loop, found.copy, strict=True)],
            unit="ratio",
            goal=2.0,
            better="lower",
            limit=1.0,
            how="the row above over the copy measured in turn with it: 1 is nothing but the copy",
        ),
        make_row(
            "inloop_packed_slice_ms",
            found.longest,
            unit="ms",
            goal=2 * SLICE_MS,
            better="lower",
            limit=SLICE_MS,
            how=f"longest slice of such a load, which is to take {SLICE_MS:g} ms: what a step waits",
        ),
    ]


def _draw(figure: Any, found: Dense) -> None:  # Any: matplotlib is untyped
    axes = figure.add_subplot()
    for label, rounds in (("quiet", found.quiet), (f"{BURST} cold loads", found.during)):
        axes.plot(rounds[-1] if rounds else [], label=label)
    axes.set_xlabel("token")
    axes.set_ylabel("ms to the next token")
    axes.legend()


async def _burst(engine: VllmEngine, adapters: Sequence[LoadedAdapter]) -> None:
    """Stage all at once, two at a time as the loader does, and activate one after the other."""
    turns = asyncio.Semaphore(2)
    copying = asyncio.Lock()

    async def load(adapter: LoadedAdapter) -> None:
        async with turns:
            await engine.stage(adapter)
        async with copying:
            await engine.activate(adapter, victim=None, slice_ms=SLICE_MS)

    await asyncio.gather(*(load(adapter) for adapter in adapters))


async def _gaps(engine: VllmEngine, tokens: int) -> list[float]:
    """Return the milliseconds between the tokens of one request."""
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        max_tokens=tokens, temperature=0.0, ignore_eos=True, output_kind=RequestOutputKind.DELTA
    )
    times = []
    llm, name = engine._llm, f"warm-{time.monotonic_ns()}"  # noqa: SLF001  # the steps of one request
    async with aclosing(llm.generate(tokens_input([1, 2, 3]), params, name)) as outputs:
        async for _ in outputs:
            times.append(time.perf_counter())  # noqa: PERF401  # a time is taken when its step comes
    return [(after - before) * 1e3 for before, after in pairwise(times)]
