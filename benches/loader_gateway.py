"""What do gateway and loader add to vLLM's own server? Throughput, latency of a warm and of a cold request.

Both run at once with the same engine arguments and the same kernels (the loader's plugin), and are measured
in turn, so that both meet the same machine.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benches.adapters import Recipe, make_adapters, write_folders
from benches.bare_vllm import EngineSize, open_bare_vllm
from benches.load import Answered, OpenAI, in_flight, open_openai
from benches.report import Report, Row, make_row
from benches.serving import Serving, open_serving
from benches.stacks import scratch_folder
from mint_common.ids import PolicyId

SIZE = EngineSize(slots=8, host=64)
WARM, AT_ONCE, TOKENS = 8, 32, 16
ROUNDS, PER_ROUND = 6, 256
SINGLE, COLD = 150, 40
RATE_ROWS = ("throughput_same_kernels", "streaming_same_kernels", "requests_per_second")
SINGLE_ROWS = ("added_p50_ms", "added_first_token_ms")
Sides = tuple[list[float], list[float]]
"""What was measured of the bare server and of ours, in turn."""


def run(only: str | None = None) -> Report:
    """Measure all, or what one row needs."""
    return asyncio.run(_run(only))


@dataclass(slots=True)
class Both:
    """What was measured; empty where nothing was."""

    rates: Sides = field(default_factory=lambda: ([], []))
    streamed: Sides = field(default_factory=lambda: ([], []))
    singles: Sides = field(default_factory=lambda: ([], []))
    firsts: Sides = field(default_factory=lambda: ([], []))
    colds: Sides = field(default_factory=lambda: ([], []))


async def _run(only: str | None) -> Report:
    with scratch_folder() as folder:
        async with (
            open_bare_vllm(SIZE, folder / "vllm.log", plugin="mint_engine_fixes") as bare_url,
            open_serving(SIZE.overrides) as serving,
            open_openai(bare_url) as bare,
            open_openai(serving.gateway_url, api_key=serving.api_key) as ours,
        ):
            both = await _measure(folder, serving, bare, ours, only)
    rows = [*_rate_rows(both), *_single_rows(both), *_cold_rows(*both.colds)]
    return Report(bench="loader_gateway", rows=rows, draw=lambda figure: _draw(figure, both))


async def _measure(folder: Path, serving: Serving, bare: OpenAI, ours: OpenAI, only: str | None) -> Both:
    await serving.publish("pool", WARM + COLD, seed=1)
    made = make_adapters(serving.facts, PolicyId("bare"), WARM + COLD, Recipe(), seed=2)
    folders = write_folders(folder / "adapters", made)
    our_warm = [f"pool@{number}" for number in range(1, WARM + 1)]
    bare_warm = [f"bare-{number}" for number in range(WARM)]
    for name, place in zip(bare_warm, folders, strict=False):
        await _load(bare, name, place)
    for ask, models in ((bare.ask, bare_warm), (ours.ask, our_warm)):
        _all_well(await in_flight(ask, models * 8, at_once=AT_ONCE))
    both = Both()
    if only in {None, *RATE_ROWS}:
        both.rates = await _throughput(bare, ours, bare_warm, our_warm, stream=False)
        both.streamed = await _throughput(bare, ours, bare_warm, our_warm, stream=True)
    if only in {None, *SINGLE_ROWS}:
        pairs = [(bare, bare_warm[0]), (ours, our_warm[0])]
        for _ in range(SINGLE):
            for (server, model), whole, first in zip(pairs, both.singles, both.firsts, strict=True):
                whole.append((await server.ask(model)).seconds)
                first.append((await server.ask(model, tokens=TOKENS, stream=True)).first_seconds)
    if only in {None, "cold_first_ratio"}:
        cold_models = [f"pool@{WARM + 1 + number}" for number in range(COLD)]
        both.colds = await _cold(bare, ours, folders[WARM:], cold_models)
    return both


def _rate_rows(both: Both) -> list[Row]:
    bare, ours = both.rates
    if not ours:
        return []
    load = (
        f"{TOKENS} tokens each, {AT_ONCE} in flight over {WARM} warm adapters, same engine arguments and "
        f"kernels, {ROUNDS} alternating rounds of {PER_ROUND}; the limit is the bare engine server itself"
    )
    ratios = [
        make_row(
            name,
            [mine / theirs for theirs, mine in zip(*sides, strict=True)],
            unit="ratio",
            goal=0.95,
            better="higher",
            limit=1.0,
            how=f"requests/s of gateway + loader over vLLM's own server with our plugin, {what}, {load}",
        )
        for name, what, sides in (
            ("throughput_same_kernels", "whole answers", both.rates),
            ("streaming_same_kernels", "streams", both.streamed),
        )
    ]
    return [
        *ratios,
        make_row(
            "requests_per_second",
            ours,
            unit="1/s",
            goal=None,
            better="higher",
            limit=max(bare),
            how="the numerator of throughput_same_kernels; the limit is the best round of the bare server",
        ),
    ]


def _single_rows(both: Both) -> list[Row]:
    if not both.singles[0]:
        return []
    return [
        make_row(
            name,
            [1000 * (mine - theirs) for theirs, mine in zip(*sides, strict=True)],
            unit="ms",
            goal=2.0,
            better="lower",
            limit=0.0,
            how=f"{what}, one warm request at a time, {SINGLE} alternating pairs: ours less the bare "
            f"server's, median of the differences (medians {_ms(sides[1])} and {_ms(sides[0])} ms); it pays "
            "for two more hops, the key, the name and the proof",
        )
        for name, what, sides in (
            ("added_p50_ms", "the whole answer of one token", both.singles),
            ("added_first_token_ms", f"the first byte of a stream of {TOKENS} tokens", both.firsts),
        )
    ]


def _cold_rows(bare: Sequence[float], ours: Sequence[float]) -> list[Row]:
    if not ours:
        return []
    return [
        make_row(
            "cold_first_ratio",
            [mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
            unit="ratio",
            goal=1.2,
            better="lower",
            limit=1.0,
            how=f"first request of a revision that no engine has seen, fetch and checks included, over "
            f"load_lora_adapter from a local folder plus the first request of the bare server; {COLD} pairs, "
            f"medians {_ms(ours)} and {_ms(bare)} ms",
        )
    ]


def _ms(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.1f}"


def _draw(figure: Any, both: Both) -> None:  # Any: matplotlib is untyped
    left, right = figure.subplots(1, 2)
    left.boxplot(both.rates, tick_labels=["vLLM", "MinT"])
    left.set(title=f"requests/s, {AT_ONCE} in flight", ylim=(0, None))
    right.boxplot(
        [[1000 * each for each in samples] for samples in (*both.singles, *both.colds)],
        tick_labels=["vLLM\nwarm", "MinT\nwarm", "vLLM\ncold", "MinT\ncold"],
        showfliers=False,
    )
    right.set(title="one request, ms", ylim=(0, None))


async def _throughput(
    bare: OpenAI, ours: OpenAI, bare_warm: Sequence[str], our_warm: Sequence[str], *, stream: bool
) -> Sides:
    rates: Sides = ([], [])
    for number in range(ROUNDS):
        sides = [(bare, bare_warm, rates[0]), (ours, our_warm, rates[1])]
        for server, models, into in sides if number % 2 else reversed(sides):
            began = time.perf_counter()
            asked = [models[place % len(models)] for place in range(PER_ROUND)]
            answers = await in_flight(
                partial(server.ask, tokens=TOKENS, stream=stream),
                asked,
                at_once=AT_ONCE,
            )
            into.append(PER_ROUND / (time.perf_counter() - began))
            _all_well(answers)
    return rates


async def _cold(bare: OpenAI, ours: OpenAI, folders: Sequence[Path], models: Sequence[str]) -> Sides:
    bare_seconds, our_seconds = [], []
    for number, (folder, model) in enumerate(zip(folders, models, strict=True)):
        began = time.perf_counter()
        await _load(bare, f"cold-{number}", folder)
        _all_well([await bare.ask(f"cold-{number}")])
        bare_seconds.append(time.perf_counter() - began)
        answer = await ours.ask(model)
        _all_well([answer])
        our_seconds.append(answer.seconds)
    return bare_seconds, our_seconds


async def _load(bare: OpenAI, name: str, folder: Path) -> None:
    status = await bare.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)})
    assert status == 200, f"vLLM refused the adapter: {status}"


def _all_well(answers: Sequence[Answered]) -> None:
    wrong = [answer for answer in answers if answer.status != 200]
    assert not wrong, f"{len(wrong)} requests failed: {wrong[:3]}"
