"""How much of an answer one gateway process relays on one core, from an engine that costs nothing.

The engine is a server that sends prepared bytes; the gateway has its real HTTP, middleware, admission and
relay over ports that know one key and one model. What counts is the processor time of the gateway's process
and its children, so that the other processes, on the same cores, do not; nginx and LiteLLM's proxy, before
the same engine under the same load, are counted alike.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvloop

from benches.machine import ROOT
from benches.processors import tree_seconds
from benches.relay_stub import BASE, TOKEN, TOKENS
from benches.relays import FOREIGN, KEY, OWN, is_here, open_relay
from benches.report import Report, Row, make_row
from services.standalone.adapters.launch import free_port

ROUNDS, STREAMS, UNARY, AT_ONCE = 5, 64, 3008, 32
FEWER = {"litellm": 320}
"""Whole answers of a relay that is so slow that 3008 would take a minute."""
MESSAGES = [{"role": "user", "content": "x"}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Streamed tokens and whole answers a second of a relay's processor time."""

    tokens: float
    requests: float


Found = Mapping[str, Sequence[Rates]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the two numbers of a relay."""

    noun: str
    what: str
    goal: float
    of: Callable[[Rates], float]

    def samples(self, found: Found, relay: str) -> list[float]:
        """Return a relay's samples, a round each."""
        return [self.of(each) for each in found[relay]]


FIGURES = (
    Figure(noun="tokens", what="streamed tokens", goal=30_000, of=lambda each: each.tokens),
    Figure(noun="requests", what="whole answers", goal=1_500, of=lambda each: each.requests),
)


def run() -> Report:
    """Measure the gateway, the raw server and the relays of others that are here, in turn."""
    relays = (*OWN, *filter(is_here, FOREIGN))
    found: dict[str, list[Rates]] = {relay: [] for relay in relays}
    for _ in range(ROUNDS):
        for relay in relays:
            found[relay].append(_measure(relay))
    rows = [row for figure in FIGURES for row in _rows(figure, found)]
    absent = {
        name: f"PATH has no {relay}" for relay in FOREIGN if relay not in found for name in _names(relay)
    }
    return Report(bench="loader_relay", rows=rows, left_out=absent, draw=lambda canvas: _draw(canvas, found))


def _rows(figure: Figure, found: Found) -> Iterator[Row]:
    limit = statistics.median(figure.samples(found, "raw"))
    load = (
        f"{STREAMS} streams of {TOKENS} tokens, one event each, and {UNARY} whole answers {AT_ONCE} at once, "
        f"of /v1/chat/completions from a server that sends prepared bytes; {ROUNDS} rounds, relays in turn"
    )
    ours = figure.samples(found, "gateway")
    yield make_row(
        f"relay_{figure.noun}_per_core_s",
        ours,
        unit="1/s",
        goal=figure.goal,
        better="higher",
        limit=limit,
        how=f"{figure.what} a second of one gateway process's processor time, {load}; the limit: the same "
        "server (uvicorn) and client library (aiohttp) with nothing between",
    )
    for relay in (each for each in FOREIGN if each in found):
        theirs = figure.samples(found, relay)
        yield make_row(
            f"{relay}_{figure.noun}_per_core_s",
            theirs,
            unit="1/s",
            goal=None,
            better="higher",
            how=f"the same of {ABOUT[relay]}; {FEWER.get(relay, UNARY)} whole answers",
        )
        yield make_row(
            f"relay_{figure.noun}_over_{relay}",
            [mine / other for mine, other in zip(ours, theirs, strict=True)],
            unit="ratio",
            goal=None,
            better="higher",
            limit=limit / statistics.median(theirs),
            how=f"the gateway's {figure.what} a second of processor time over {relay}'s, round by round; the "
            f"limit is the raw server's over {relay}'s. The gateway checks key, name, fields and the "
            "revision that answered, and admits in turns of tenants",
        )


ABOUT = {
    "nginx": "one worker of nginx and its master, HTTP/1.1 kept alive both ways, proxy_buffering off, no "
    "checks and no log",
    "litellm": "LiteLLM's proxy, one worker, a master key, no database and no callbacks",
}


def _names(relay: str) -> list[str]:
    """Return the rows of one relay of others."""
    shapes = ("{relay}_{noun}_per_core_s", "relay_{noun}_over_{relay}")
    return [shape.format(relay=relay, noun=figure.noun) for figure in FIGURES for shape in shapes]


def _draw(canvas: Any, found: Found) -> None:  # Any: matplotlib is untyped
    for axes, figure in zip(canvas.subplots(1, 2), FIGURES, strict=True):
        axes.bar(list(found), [statistics.median(figure.samples(found, relay)) for relay in found])
        axes.axhline(figure.goal, linestyle="--", color="black")
        axes.set(title=f"{figure.what} a second of a core", yscale="log")


def _measure(relay: str) -> Rates:
    engine_port, port = free_port(), free_port()
    with _stub(engine_port), open_relay(relay, port=port, engine_port=engine_port) as pid:
        return uvloop.run(_load(port, pid, unary=FEWER.get(relay, UNARY)))


@contextlib.contextmanager
def _stub(port: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "benches.relay_stub", str(port)], cwd=ROOT)
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def _load(port: int, pid: int, *, unary: int) -> Rates:
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    headers = {"authorization": f"Bearer {KEY}"}
    whole = {"model": BASE, "messages": MESSAGES, "max_tokens": 1}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(headers=headers, connector=connector, timeout=timeout) as session:
        await _until_ready(session, url, whole)

        async def stream() -> int:
            async with session.post(url, json={**whole, "max_tokens": TOKENS, "stream": True}) as answer:
                return (await answer.read()).count(TOKEN)

        async def several(times: int) -> None:
            for _ in range(times):
                async with session.post(url, json=whole) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()

        await asyncio.gather(*(stream() for _ in range(8)))
        seconds = tree_seconds(pid)
        tokens = sum(await asyncio.gather(*(stream() for _ in range(STREAMS))))
        streaming = tree_seconds(pid) - seconds
        assert tokens == STREAMS * TOKENS, f"{tokens} tokens came of {STREAMS * TOKENS}"
        await asyncio.gather(*(several(10) for _ in range(8)))
        seconds = tree_seconds(pid)
        await asyncio.gather(*(several(unary // AT_ONCE) for _ in range(AT_ONCE)))
        answering = tree_seconds(pid) - seconds
    return Rates(tokens=tokens / streaming, requests=unary / answering)


async def _until_ready(session: aiohttp.ClientSession, url: str, body: object) -> None:
    async with asyncio.timeout(600):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post(url, json=body) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
