"""How much faster does a packed adapter of experts load, and how near is that to reading its bytes?

Live: on a CPU engine, 48 layers of 128 experts at tiny widths, vLLM's own `add_lora` per expert against the
loader's packed load. Real widths: Qwen3-30B-A3B at rank 1 in 16 bits, through vLLM's own LoRAModel and
merging code but without the model, which does not fit here. Every load ends with the copy into a slot, so
that a lazily mapped page is paid for.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benches.engines import engine_config, open_engine
from benches.moe_loads import EXPERTS, LAYERS, BareLoader, real_facts, write_both
from benches.report import Report, Row, make_row
from benches.stacks import scratch_folder
from mint_common.adapters_format import WEIGHTS_FILE
from mint_common.ids import Digest
from services.loader.adapters.vllm.engine import VllmEngine
from services.loader.ports import LoadedAdapter

LIVE_ROUNDS, REAL_ROUNDS = 9, 7
LIVE_RANK = 4
LIVE_ROW = "packed_live_ratio"

Load = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of each round, in turn."""

    per_expert: list[float]
    packed: list[float]
    read: list[float]

    def ratios(self) -> list[float]:
        """Return per-expert over packed, round by round."""
        return [slow / fast for slow, fast in zip(self.per_expert, self.packed, strict=True)]


def run(only: str | None = None) -> Report:
    """Measure all, or what one row needs."""
    live, real = Times([], [], []), Times([], [], [])
    with scratch_folder() as folder:
        if only != LIVE_ROW:
            real = measure_real(folder / "real")
        if only in {None, LIVE_ROW}:
            live = asyncio.run(measure_live(folder / "live"))
    rows = [*(_live_rows(live) if live.packed else []), *(_real_rows(real) if real.packed else [])]
    return Report(bench="packed", rows=rows, draw=lambda figure: _draw(figure, live, real))


def _live_rows(live: Times) -> list[Row]:
    return [
        make_row(
            LIVE_ROW,
            live.ratios(),
            unit="ratio",
            goal=20.0,
            better="higher",
            value=_ratio(live.per_expert, live.packed),
            how=f"add_lora of {_ms(live.per_expert)} ms per expert over {_ms(live.packed)} ms packed, laid "
            f"out by the builder, in turn; {LAYERS} layers x {EXPERTS} experts x 3, rank {LIVE_RANK}, tiny "
            "widths, vLLM on CPU, into a slot",
        )
    ]


def _real_rows(real: Times) -> list[Row]:
    over_read = [mine / floor for mine, floor in zip(real.packed, real.read, strict=True)]
    return [
        make_row(
            "packed_real_dims_ratio",
            real.ratios(),
            unit="ratio",
            goal=11.0,
            better="higher",
            value=_ratio(real.per_expert, real.packed),
            limit=_ratio(real.per_expert, real.read),
            how=f"{_ms(real.per_expert)} ms per expert over {_ms(real.packed)} ms packed: read, merge, copy "
            "into a slot; 30B-A3B widths, rank 1, F16, no model. Limit: over a read and copy of the bytes",
        ),
        make_row(
            "packed_over_read",
            over_read,
            unit="ratio",
            goal=2.0,
            better="lower",
            value=_ratio(real.packed, real.read),
            limit=1.0,
            how=f"{_ms(real.packed)} ms packed over {_ms(real.read)} ms to read the file at once and copy "
            "it; warm page cache. Limit: the read itself",
        ),
    ]


def _ms(samples: Sequence[float]) -> str:
    return f"{statistics.median(samples) * 1e3:.1f}"


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(above) / statistics.median(below)


def _rounds(count: int, *loads: Load) -> list[list[float]]:
    """Run the loads in turn and return the seconds of each; the first round warms up and is left out."""
    times: list[list[float]] = [[] for _ in loads]
    for turn in range(count + 1):
        for load, samples in zip(loads, times, strict=True):
            began = time.perf_counter()
            load()
            if turn:
                samples.append(time.perf_counter() - began)
    return times


async def measure_live(folder: Path) -> Times:
    """Load the same adapter into one running engine in both layouts, in turn and under new numbers.

    Per expert by vLLM's own `add_lora`; packed as the loader does: laid out by the builder, mapped and copied
    into a slot by the engine.
    """
    from tools.make_moe_base import make_moe_base

    facts = make_moe_base(folder / "base", experts=EXPERTS, layers=LAYERS, expert_width=32)
    packed, split = write_both(facts, folder, rank=LIVE_RANK, dtype=np.float32)
    config = engine_config(folder / "base", facts, slots=2, host=2, max_context=128)
    times = Times([], [], [])
    async with open_engine(config) as engine:
        for turn in range(LIVE_ROUNDS + 1):
            sides = ((_add_lora, split, times.per_expert), (_load, packed, times.packed))
            for side, (load, place, samples) in enumerate(sides, 1):
                number = 2 * turn + side
                began = time.perf_counter()
                await load(engine, LoadedAdapter(digest=Digest(f"a{number}"), number=number, folder=place))
                if turn:  # the first one warms up
                    samples.append(time.perf_counter() - began)
                await engine.unload(number)
    return times


async def _add_lora(engine: VllmEngine, adapter: LoadedAdapter) -> None:
    """Load as vLLM does by itself, a slot included."""
    from vllm.lora.request import LoRARequest

    request = LoRARequest(adapter.digest, adapter.number, str(adapter.folder))
    assert await engine._llm.add_lora(request)  # noqa: SLF001  # what the loader is measured against


async def _load(engine: VllmEngine, adapter: LoadedAdapter) -> None:
    await engine.stage(adapter)
    assert (await engine.activate(adapter, victim=None, slice_ms=1e9)).done


def measure_real(folder: Path) -> Times:
    """Load at real widths without a model, and read the same bytes."""
    packed, split = write_both(real_facts(), folder, rank=1, dtype=np.float16)
    size_bytes = (packed / WEIGHTS_FILE).stat().st_size
    buffer, target = np.ones(size_bytes, np.uint8), np.ones(size_bytes, np.uint8)

    def read() -> None:
        with (packed / WEIGHTS_FILE).open("rb", buffering=0) as file:
            assert file.readinto(buffer.data) == size_bytes
        target[:] = buffer

    loader = BareLoader()
    times = _rounds(
        REAL_ROUNDS, lambda: loader.load_per_expert(split), lambda: loader.load_packed(packed), read
    )
    return Times(*times)


def _draw(figure: Any, live: Times, real: Times) -> None:
    titled = {f"live engine, tiny widths, rank {LIVE_RANK}": live, "30B-A3B widths, rank 1, no model": real}
    measured = {title: times for title, times in titled.items() if times.packed}
    axes = figure.subplots(1, len(measured), squeeze=False)[0]
    for plot, (title, times) in zip(axes, measured.items(), strict=True):
        bars = {"per expert": times.per_expert, "packed": times.packed, "read + copy": times.read}
        shown = {name: [1e3 * second for second in samples] for name, samples in bars.items() if samples}
        heights = [statistics.median(samples) for samples in shown.values()]
        drawn = plot.bar(list(shown), heights, color=("#b0b0b0", "#2a6f97", "#d9d9d9")[: len(shown)])
        plot.bar_label(drawn, [f"{height:.1f}" for height in heights])
        plot.set_yscale("log")
        plot.set_ylabel("ms, median")
        plot.set_title(title)
