"""Do warm tenants feel that 32 adapters are added? With admission, without, and in vLLM's own server.

All three run at once and are measured in turn, round by round, so that they meet the same machine. A round is
a quiet time under steady load, then adapters that are asked for at once under the same load.
"""

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benches.adapters import Recipe, make_adapters, write_folders
from benches.bare_vllm import EngineSize, open_bare_vllm
from benches.bases import TINY
from benches.load import Answered, OpenAI, at_rate, open_openai
from benches.processors import CORES, grown, processor_seconds
from benches.report import Report, Row, bootstrap_interval, make_row, percentile
from benches.serving import Serving, open_serving
from benches.stacks import scratch_folder
from mint_common.adapters_format import read_base_facts
from mint_common.ids import PolicyId

SIZE = EngineSize(slots=16, host=256)
WARM, ADDED, ALONE = 8, 32, 8
PER_SECOND, TOKENS = 30.0, 8
QUIET_SECONDS, LEFT_OUT = 1.5, 5
ENOUGH, MAX_ROUNDS = 400, 64
COUNTED_BURSTS = 8
WORKERS = 2
ADMISSION_OFF = {
    "MINT_LOADER_STALL_SHARE": "1",
    "MINT_LOADER_SLICE_MS": "1000000",
    "MINT_LOADER_LOAD_WORKERS": str(ADDED),
}
ADAPTERS = WARM + ALONE + ADDED * (MAX_ROUNDS + COUNTED_BURSTS)
ON, OFF, BARE = "admission", "no admission", "vLLM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One server, its warm models, and how to ask for the first token of an adapter that it lacks."""

    server: OpenAI
    warm: Sequence[str]
    add: Callable[[int], Awaitable[Answered]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """First tokens in seconds, of warm tenants in quiet and while others are added, and of those."""

    quiet: Sequence[float]
    during: Sequence[float]
    added: Sequence[float]


@dataclass(slots=True)
class Felt:
    """What one side's tenants felt; ``alone`` are the first tokens of adapters that were added one by one."""

    alone: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)

    def all(self, name: str) -> list[float]:
        """Return the samples of one kind of all rounds."""
        return [each for one in self.rounds for each in getattr(one, name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Processor milliseconds by part: of a warm request, and of a cold one beyond that."""

    warm: Mapping[str, float]
    add: Mapping[str, float]

    @property
    def window_seconds(self) -> float:
        """Return how long the adds take at least: they have what the warm load leaves of all cores."""
        left = CORES - PER_SECOND * sum(self.warm.values()) / 1e3
        return ADDED * (sum(self.add.values()) + sum(self.warm.values()) / TOKENS) / 1e3 / left


def run() -> Report:
    """Measure."""
    return asyncio.run(_run())


async def _run() -> Report:
    async with (
        open_serving(SIZE.overrides) as serving,
        _ours(serving) as ours,
        open_serving({**SIZE.overrides, **ADMISSION_OFF}) as unlimited,
        _ours(unlimited) as theirs,
        _bare() as bare,
    ):
        sides = {ON: ours, OFF: theirs, BARE: bare}
        felt = {name: Felt() for name in sides}
        for name, side in sides.items():
            for model in side.warm:
                await side.server.ask(model, tokens=TOKENS)
            felt[name].alone += [(await side.add(number)).first_seconds for number in range(ALONE)]
        for number in range(MAX_ROUNDS):
            order = list(sides)
            for name in order[number % 3 :] + order[: number % 3]:
                felt[name].rounds.append(await _round(sides[name], ALONE + ADDED * number))
            if min(len(one.all("during")) for one in felt.values()) >= ENOUGH:
                break
        costs = await _costs(serving, ours)
    return Report(bench="loader_warm", rows=_rows(felt, costs), draw=lambda figure: _draw(figure, felt))


async def _round(side: Side, first: int) -> Round:
    stop = asyncio.Event()
    asked = asyncio.create_task(
        at_rate(
            lambda model: side.server.ask(model, tokens=TOKENS, stream=True),
            (side.warm[place % len(side.warm)] for place in range(10**9)),
            per_second=PER_SECOND,
            until=stop,
        )
    )
    await asyncio.sleep(QUIET_SECONDS)
    added = await asyncio.gather(*(side.add(first + place) for place in range(ADDED)))
    began = min(answer.sent_at for answer in added)
    ended = max(answer.sent_at + answer.first_seconds for answer in added)
    stop.set()
    answers = await asked
    failed = [answer for answer in (*answers, *added) if answer.status != 200]
    assert not failed, f"{len(failed)} requests failed: {failed[:3]}"
    counted = answers[LEFT_OUT:]
    return Round(
        quiet=[each.first_seconds for each in counted if each.sent_at + each.first_seconds < began],
        during=[
            each.first_seconds
            for each in counted
            if each.sent_at + each.first_seconds >= began and each.sent_at < ended
        ],
        added=[each.first_seconds for each in added],
    )


async def _costs(serving: Serving, side: Side) -> Costs:
    """Count the processor's time of bursts of warm and of cold requests, then of warm ones as they come."""
    before = processor_seconds(serving.stack)
    asked = COUNTED_BURSTS * ADDED
    for start in range(0, asked, ADDED):
        models = [side.warm[(start + place) % WARM] for place in range(ADDED)]
        await asyncio.gather(*(side.server.ask(model, stream=True) for model in models))
    between = processor_seconds(serving.stack)
    for number in range(MAX_ROUNDS, MAX_ROUNDS + COUNTED_BURSTS):
        first = ALONE + ADDED * number
        await asyncio.gather(*(side.add(first + place) for place in range(ADDED)))
    after = processor_seconds(serving.stack)
    await at_rate(
        lambda model: side.server.ask(model, tokens=TOKENS, stream=True),
        (side.warm[place % WARM] for place in range(asked)),
        per_second=PER_SECOND,
        until=asyncio.Event(),
    )
    warm = {part: 1e3 * each / asked for part, each in grown(after, processor_seconds(serving.stack)).items()}
    first_token = grown(before, between)
    add = {part: 1e3 * (each - first_token[part]) / asked for part, each in grown(between, after).items()}
    return Costs(warm=warm, add=add)


@contextlib.asynccontextmanager
async def _ours(serving: Serving) -> AsyncIterator[Side]:
    async with open_openai(serving.gateway_url, api_key=serving.api_key) as server:
        await serving.publish("pool", ADAPTERS)

        async def add(number: int) -> Answered:
            return await server.ask(f"pool@{WARM + 1 + number}", stream=True)

        yield Side(server=server, warm=[f"pool@{number}" for number in range(1, WARM + 1)], add=add)


@contextlib.asynccontextmanager
async def _bare() -> AsyncIterator[Side]:
    with scratch_folder() as folder:
        made = make_adapters(read_base_facts(TINY), PolicyId("bare"), ADAPTERS, Recipe(), seed=0)
        folders = write_folders(folder / "adapters", made)
        async with open_bare_vllm(SIZE, folder / "vllm.log") as url, open_openai(url) as server:

            async def load(number: int) -> str:
                name = f"bare-{number}"
                body = {"lora_name": name, "lora_path": str(folders[number])}
                assert await server.post("/v1/load_lora_adapter", body) == 200
                return name

            async def add(number: int) -> Answered:
                return await server.ask(await load(WARM + number), stream=True)

            yield Side(server=server, warm=[await load(number) for number in range(WARM)], add=add)


def _ratio(rounds: Sequence[Round]) -> float:
    """Return the warm tenants' p95 while adapters are added over that of the quiet times."""
    during = [each for one in rounds for each in one.during]
    quiet = [each for one in rounds for each in one.quiet]
    return percentile(during, 0.95) / percentile(quiet, 0.95)


def _rows(felt: Mapping[str, Felt], costs: Costs) -> list[Row]:
    on, off = felt[ON], felt[OFF]
    allowed = ADDED * statistics.median(on.alone) / WORKERS
    pairs = list(zip(off.rounds, on.rounds, strict=True))
    gains = bootstrap_interval(
        pairs, lambda drawn: _ratio([one for one, _ in drawn]) / _ratio([one for _, one in drawn])
    )
    windows = [max(one.added) for one in on.rounds]
    return [
        _ratio_row("warm_p95_ratio", on, 1.8, "the loader with admission, as it comes; the paper has 17"),
        _ratio_row(
            "warm_p95_ratio_admission_off",
            off,
            44.0,
            f"{ADDED} loads at once, activations of any length, requests begun at once; the paper has 44",
        ),
        _ratio_row(
            "warm_p95_ratio_vllm",
            felt[BARE],
            44.0,
            "vLLM's own server: load_lora_adapter, then the first request, for all at once",
        ),
        make_row(
            "warm_p95_admission_gain",
            [_ratio([one]) / _ratio([other]) for one, other in pairs],
            unit="ratio",
            goal=1.0,
            better="higher",
            value=gains[0],
            interval=gains,
            how=f"warm_p95_ratio_admission_off ({_ratio(off.rounds):.2f}) over warm_p95_ratio "
            f"({_ratio(on.rounds):.2f}): the lower end of its interval, above 1 if admission helps for sure",
        ),
        make_row(
            "added_first_token_ratio",
            [each / allowed for each in on.all("added")],
            unit="ratio",
            goal=2.0,
            better="lower",
            limit=1 / ADDED,
            value=percentile(on.all("added"), 0.95) / allowed,
            how=f"p95 of the added tenants' first token over {ADDED} bare loads / {WORKERS} workers; a bare "
            f"load is the median first request of {ALONE} cold revisions, one by one under no other load",
        ),
        make_row(
            "warm_p95_ms",
            [1000 * each for each in on.all("during")],
            unit="ms",
            goal=100.0,
            better="lower",
            limit=1000 * percentile(on.all("quiet"), 0.95),
            value=1000 * percentile(on.all("during"), 0.95),
            how="the numerator of warm_p95_ratio; the limit is its denominator",
        ),
        make_row(
            "adds_window_ms",
            [1000 * each for each in windows],
            unit="ms",
            goal=None,
            better="lower",
            limit=1000 * costs.window_seconds,
            how=f"from asking for {ADDED} adapters until the last has answered, with admission; without "
            f"{1000 * statistics.median(max(one.added) for one in off.rounds):.0f} ms, vLLM's server "
            f"{1000 * statistics.median(max(one.added) for one in felt[BARE].rounds):.0f} ms. Limit: "
            f"{CORES} cores that are never idle, by processor time (add_cpu_ms), less the warm load's "
            f"{PER_SECOND * sum(costs.warm.values()) / 1e3:.2f} cores",
        ),
        make_row(
            "add_cpu_ms",
            list(costs.add.values()),
            unit="ms",
            goal=None,
            better="lower",
            value=sum(costs.add.values()),
            how=f"processor time of one add beyond that of a warm request of one token, mean of "
            f"{COUNTED_BURSTS * ADDED} in bursts of {ADDED} under no other load: {_told(costs.add)}. A warm "
            f"request of {TOKENS} tokens takes {_told(costs.warm)}",
        ),
    ]


def _told(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{part} {each:.1f}" for part, each in parts.items()) + " ms"


def _ratio_row(name: str, felt: Felt, goal: float, who: str) -> Row:
    quiet = percentile(felt.all("quiet"), 0.95)
    return make_row(
        name,
        [each / quiet for each in felt.all("during")],
        unit="ratio",
        goal=goal,
        better="lower",
        limit=1.0,
        value=_ratio(felt.rounds),
        interval=bootstrap_interval(felt.rounds, _ratio),
        how=f"p95 of the first token of {WARM} warm tenants, {PER_SECOND:g} requests/s of {TOKENS} tokens, "
        f"from the moment that {ADDED} cold adapters are asked for at once until the last has answered, over "
        f"the p95 before ({1e3 * quiet:.1f} ms); {len(felt.rounds)} rounds in turn with the other servers, "
        f"{len(felt.all('during'))} and {len(felt.all('quiet'))} requests; {who}. Limit: adds that take only "
        "what warm requests leave",
    )


def _draw(figure: Any, felt: Mapping[str, Felt]) -> None:  # Any: matplotlib is untyped
    axes = figure.subplots()
    samples = [each.all(kind) for each in felt.values() for kind in ("quiet", "during")]
    labels = [f"{name}\n{when}" for name in felt for when in ("before", "adding")]
    axes.boxplot([[1000 * one for one in part] for part in samples], tick_labels=labels, whis=(5, 95))
    axes.set(title=f"warm tenants' first token while {ADDED} adapters are added", ylabel="ms")
    axes.set_yscale("log")
