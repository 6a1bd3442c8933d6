"""Do warm tenants feel that 32 adapters are added? With admission, without, and in vLLM's own server."""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.adapters import Recipe, make_adapters, write_folders
from benches.bare_vllm import EngineSize, open_bare_vllm
from benches.bases import TINY
from benches.load import Answered, OpenAI, at_rate, open_openai
from benches.report import Report, Row, make_row, percentile
from benches.serving import open_serving
from benches.stacks import scratch_folder
from mint_common.adapters_format import read_base_facts
from mint_common.ids import PolicyId

SIZE = EngineSize(slots=16, host=256)
WARM, ADDED, ROUNDS, ALONE = 8, 32, 8, 8
PER_SECOND, TOKENS = 30.0, 8
QUIET_SECONDS = 1.5
WORKERS = 2
ADMISSION_OFF = {
    "MINT_LOADER_STALL_SHARE": "1",
    "MINT_LOADER_STALL_BURST_MS": "1000000",
    "MINT_LOADER_SLICE_MS": "1000000",
    "MINT_LOADER_LOAD_WORKERS": str(ADDED),
}

Add = Callable[[int], Awaitable[Answered]]


@dataclass(slots=True)
class Felt:
    """First tokens in seconds: of warm tenants in quiet and while adapters are added, and of the added."""

    quiet: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Return how much longer the warm tenants' slowest tenth of a half wait."""
        return percentile(self.during, 0.95) / percentile(self.quiet, 0.95)


def run() -> Report:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> Report:
    felt: dict[str, Felt] = {}
    for name, settings in (("admission", {}), ("no admission", ADMISSION_OFF)):
        async with _ours(settings) as (server, warm, add):
            felt[name] = await _measure(server, warm, add)
    async with _bare() as (server, warm, add):
        felt["vLLM"] = await _measure(server, warm, add)
    on = felt["admission"]
    allowed = ADDED * statistics.median(on.alone) / WORKERS
    rows = [
        _ratio_row("warm_p95_ratio", on, 1.3, "the loader with admission, as it comes; the paper has 17"),
        _ratio_row(
            "warm_p95_ratio_admission_off",
            felt["no admission"],
            44.0,
            f"the loader with {ADDED} loads at once and activations of any length; the paper has 44",
        ),
        _ratio_row(
            "warm_p95_ratio_vllm",
            felt["vLLM"],
            44.0,
            "vLLM's own server: load_lora_adapter, then the first request, for all at once",
        ),
        make_row(
            "added_first_token_ratio",
            [each / allowed for each in on.added],
            unit="ratio",
            goal=2.0,
            better="lower",
            limit=1 / ADDED,
            value=percentile(on.added, 0.95) / allowed,
            how=f"p95 of the added tenants' first token over {ADDED} bare loads / {WORKERS} workers; a bare "
            f"load is the median first request of {ALONE} cold revisions, one by one under no other load",
        ),
        make_row(
            "warm_p95_ms",
            [1000 * each for each in on.during],
            unit="ms",
            goal=100.0,
            better="lower",
            limit=1000 * percentile(on.quiet, 0.95),
            value=1000 * percentile(on.during, 0.95),
            how="the numerator of warm_p95_ratio; the limit is its denominator",
        ),
    ]

    def draw(figure: Any) -> None:  # Any: matplotlib is untyped
        axes = figure.subplots()
        samples = [part for each in felt.values() for part in (each.quiet, each.during)]
        labels = [f"{name}\n{when}" for name in felt for when in ("before", "adding")]
        axes.boxplot([[1000 * one for one in part] for part in samples], tick_labels=labels, whis=(5, 95))
        axes.set(title=f"warm tenants' first token while {ADDED} adapters are added", ylabel="ms")
        axes.set_yscale("log")

    return Report(bench="loader_warm", rows=rows, draw=draw)


def _ratio_row(name: str, felt: Felt, goal: float, who: str) -> Row:
    return make_row(
        name,
        [each / percentile(felt.quiet, 0.95) for each in felt.during],
        unit="ratio",
        goal=goal,
        better="lower",
        limit=1.0,
        value=felt.ratio,
        how=f"p95 of the first token of {WARM} warm tenants, {PER_SECOND:g} requests/s of {TOKENS} tokens, "
        f"from the moment that {ADDED} cold adapters are asked for at once until the last has answered, over "
        f"the p95 before; {ROUNDS} rounds, {len(felt.during)} and {len(felt.quiet)} requests; {who}",
    )


@contextlib.asynccontextmanager
async def _ours(settings: dict[str, str]) -> AsyncIterator[tuple[OpenAI, list[str], Add]]:
    async with (
        open_serving({**SIZE.overrides, **settings}) as serving,
        open_openai(serving.gateway_url, api_key=serving.api_key) as server,
    ):
        await serving.publish("pool", WARM + ALONE + ADDED * ROUNDS)

        async def add(number: int) -> Answered:
            return await server.ask(f"pool@{WARM + 1 + number}", stream=True)

        yield server, [f"pool@{number}" for number in range(1, WARM + 1)], add


@contextlib.asynccontextmanager
async def _bare() -> AsyncIterator[tuple[OpenAI, list[str], Add]]:
    with scratch_folder() as folder:
        facts = read_base_facts(TINY)
        count = WARM + ALONE + ADDED * ROUNDS
        folders = write_folders(
            folder / "adapters", make_adapters(facts, PolicyId("bare"), count, Recipe(), seed=0)
        )
        async with open_bare_vllm(SIZE, folder / "vllm.log") as url, open_openai(url) as server:

            async def load(number: int) -> str:
                name = f"bare-{number}"
                body = {"lora_name": name, "lora_path": str(folders[number])}
                assert await server.post("/v1/load_lora_adapter", body) == 200
                return name

            async def add(number: int) -> Answered:
                return await server.ask(await load(WARM + number), stream=True)

            yield server, [await load(number) for number in range(WARM)], add


async def _measure(server: OpenAI, warm: Sequence[str], add: Add) -> Felt:
    felt = Felt()
    for model in warm:
        await server.ask(model, tokens=TOKENS)
    felt.alone += [(await add(number)).first_seconds for number in range(ALONE)]
    for number in range(ROUNDS):
        stop = asyncio.Event()
        asked = asyncio.create_task(
            at_rate(
                lambda model: server.ask(model, tokens=TOKENS, stream=True),
                (warm[place % len(warm)] for place in range(10**9)),
                per_second=PER_SECOND,
                until=stop,
            )
        )
        await asyncio.sleep(QUIET_SECONDS)
        first = ALONE + ADDED * number
        added = await asyncio.gather(*(add(first + place) for place in range(ADDED)))
        began = min(answer.sent_at for answer in added)
        ended = max(answer.sent_at + answer.first_seconds for answer in added)
        stop.set()
        answers = await asked
        failed = [answer for answer in (*answers, *added) if answer.status != 200]
        assert not failed, f"{len(failed)} requests failed: {failed[:3]}"
        felt.added += [answer.first_seconds for answer in added]
        for answer in answers[5:]:
            first_at = answer.sent_at + answer.first_seconds
            if first_at < began:
                felt.quiet.append(answer.first_seconds)
            elif answer.sent_at < ended:
                felt.during.append(answer.first_seconds)
    return felt
