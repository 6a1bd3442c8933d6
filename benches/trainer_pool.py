"""Measures a second trainer of a base: eight policies over two trainers against one, a core each.

The second trainer joins while the policies train; the first lets some go. This process is their clients, all
of which ask the first trainer.
"""

import asyncio
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import psutil

from benches.bases import base_folder
from benches.operations import ADAM, Client, lora_spec, random_pass
from benches.report import Report, Row, make_row
from benches.stacks import BenchStack, open_bench_stack
from mint_common.adapters_format import read_base_facts
from mint_common.client.trainer import TrainerClient
from mint_common.ids import BaseName, PolicyId
from mint_common.training import Open, Pass
from services.standalone.adapters.launch import free_port

BASE = "smollm2"
POLICIES, TOGETHER = 8, 4
SEQUENCES, TOKENS = 4, 64
ROUNDS, STEPS = 5, 2
JOIN_SECONDS = 120.0
_HOLDERS = "SELECT policy_id, holder FROM trainer.training ORDER BY policy_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Tokens a second of every round on one trainer and on two, and the policies that moved."""

    one: list[float]
    two: list[float]
    moves: int
    shares: Sequence[int]


def run() -> Report:
    """Measure."""
    measured = asyncio.run(_run())
    return Report(bench="trainer_pool", rows=_rows(measured), draw=lambda figure: _draw(figure, measured))


async def _run() -> Measured:
    overrides = {"MINT_TRAINER_BATCH_POLICIES": str(TOGETHER)}
    opening = open_bench_stack(("registry", "trainer"), base=BASE, overrides=overrides)
    async with opening as stack, stack.http(f"trainer-{BASE}") as http:
        psutil.Process(stack.pids(f"trainer-{BASE}")[0]).cpu_affinity([0])
        trainer, facts = TrainerClient(http), read_base_facts(base_folder(BASE))
        clients = [Client(trainer, PolicyId(f"policy_{number}")) for number in range(POLICIES)]
        for number, client in enumerate(clients):
            await client.do(Open(base=BaseName(BASE), lora=lora_spec(facts, number)))
        passes = [random_pass(facts, seed, SEQUENCES, TOKENS) for seed in range(POLICIES)]
        one = await _rates(clients, passes)
        before = await _holders(stack)
        async with _second(stack):
            deadline = time.monotonic() + JOIN_SECONDS
            while sorted(_shares(await _holders(stack))) != [TOGETHER, TOGETHER]:
                assert time.monotonic() < deadline, await _holders(stack)
                await _rate(clients, passes)
            two = await _rates(clients, passes)
            after = await _holders(stack)
    moves = sum(after[policy] != holder for policy, holder in before.items())
    return Measured(one=one, two=two, moves=moves, shares=_shares(after))


@contextlib.asynccontextmanager
async def _second(stack: BenchStack) -> AsyncIterator[None]:
    """Run a second trainer as the first one runs, on the other core."""
    environ = psutil.Process(stack.pids(f"trainer-{BASE}")[0]).environ()
    environ["MINT_TRAINER_HTTP_PORT"] = str(free_port())
    process = subprocess.Popen(  # it begins at once
        [sys.executable, "-m", "services.trainer"], env=environ, stdout=subprocess.DEVNULL
    )
    try:
        psutil.Process(process.pid).cpu_affinity([1])
        yield
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def _holders(stack: BenchStack) -> dict[str, int]:
    connection = await asyncpg.connect(stack.dsn)
    try:
        return {row["policy_id"]: row["holder"] for row in await connection.fetch(_HOLDERS)}
    finally:
        await connection.close()


def _shares(holders: dict[str, int]) -> list[int]:
    tokens = list(holders.values())
    return [tokens.count(token) for token in sorted(set(tokens) - {None})]


async def _rates(clients: Sequence[Client], passes: Sequence[Pass]) -> list[float]:
    await _rate(clients, passes)  # it warms up
    return [await _rate(clients, passes) for _ in range(ROUNDS)]


async def _rate(clients: Sequence[Client], passes: Sequence[Pass]) -> float:
    async def train(client: Client, work: Pass) -> None:
        for _ in range(STEPS):
            await client.do(work, ADAM)

    started = time.perf_counter()
    await asyncio.gather(*(train(client, work) for client, work in zip(clients, passes, strict=True)))
    return POLICIES * SEQUENCES * TOKENS * STEPS / (time.perf_counter() - started)


def _rows(measured: Measured) -> list[Row]:
    one, two = statistics.median(measured.one), statistics.median(measured.two)
    return [
        make_row(
            "two_trainers_ratio",
            [rate / one for rate in measured.two],
            unit="ratio",
            goal=1.8,
            better="higher",
            how=f"{BASE}, {POLICIES} policies x {SEQUENCES} x {TOKENS} tokens, {TOGETHER} stepped together, "
            f"a core a trainer, all asked at the first: {two:.0f} tokens/s over {one:.0f} of one trainer",
        ),
        make_row(
            "placement_moves",
            [float(measured.moves)],
            unit="policies",
            goal=float(POLICIES - TOGETHER),
            better="lower",
            how=f"policies that changed their trainer when the second joined; then {measured.shares} each",
        ),
    ]


def _draw(figure: Any, measured: Measured) -> None:
    axes = figure.subplots()
    axes.plot(measured.one, color="#b0b0b0", label="one trainer")
    axes.plot(measured.two, color="#2a6f97", label="two trainers")
    axes.set_xlabel("round")
    axes.set_ylabel("tokens/s")
    axes.set_ylim(bottom=0)
    axes.legend()
