"""What does a durable operation cost, and how much of the bare compute do clients get?

A trainer of the tiny base runs as a process beside real Postgres; this process is its clients. The bare
compute is the same passes and steps called directly, in turn with the service, so that both meet the same
machine.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benches.bases import TINY
from benches.device import one_thread
from benches.report import Report, Row, make_row
from benches.stacks import open_bench_stack
from mint_common.adapters_format import BaseFacts
from mint_common.client.trainer import TrainerClient
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.training import (
    Array,
    Datum,
    Done,
    Open,
    Operation,
    Pass,
    Pending,
    Result,
    Step,
    Submission,
)
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.freed_memory import keep_freed_memory
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes

TENANT = TenantId("default")
CLIENTS, SEQUENCES, TOKENS, RANK = 4, 16, 64, 8
SINGLES, ROUNDS, STEPS = 200, 7, 5
MICROBATCH = 512
ADAM = Step(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-12, weight_decay=0.0, clip_norm=1.0)


@dataclass(slots=True)
class Client:
    """A client that trains one policy."""

    trainer: TrainerClient
    policy_id: PolicyId
    seq: int = 0

    async def do(self, *operations: Operation) -> list[Result]:
        """Submit operations one after another, and return their results when all are there."""
        first = self.seq
        for operation in operations:
            await self.trainer.submit(Submission(self.policy_id, TENANT, self.seq, operation))
            self.seq += 1
        return list(await asyncio.gather(*(self._result(seq) for seq in range(first, self.seq))))

    async def _result(self, seq: int) -> Result:
        while isinstance(
            outcome := await self.trainer.outcome(self.policy_id, seq, wait_seconds=30), Pending
        ):
            pass
        assert isinstance(outcome, Done), outcome
        return outcome.result


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Milliseconds of small operations, and tokens a second of every round, through the service and bare."""

    served_ms: list[float]
    bare_ms: list[float]
    served_rates: list[float]
    bare_rates: list[float]


def run() -> Report:
    """Measure."""
    one_thread()
    keep_freed_memory()  # as the trainer's process does
    measured = asyncio.run(_run(load_base(TINY)))
    return Report(bench="operations", rows=_rows(measured), draw=lambda figure: _draw(figure, measured))


async def _run(base: ResidentBase) -> Measured:
    async with open_bench_stack(("registry", "trainer")) as stack, stack.http("trainer-tiny") as http:
        trainer = TrainerClient(http)
        clients = [Client(trainer, PolicyId(f"policy_{number}")) for number in range(CLIENTS)]
        for number, client in enumerate(clients):
            await client.do(Open(base=BaseName("tiny"), lora=lora_spec(base.facts, number)))
        states = [new_state(base.facts, lora_spec(base.facts, number)) for number in range(CLIENTS)]
        served_ms, bare_ms = await _singles(base, clients[0], states[0])
        passes = [random_pass(base.facts, seed, SEQUENCES, TOKENS) for seed in range(CLIENTS)]
        served_rates, bare_rates = [], []
        for round_number in range(ROUNDS + 1):
            served = await _served_rate(clients, passes)
            bare = _bare_rate(base, states, passes)
            if round_number:  # the first one warms up
                served_rates.append(served)
                bare_rates.append(bare)
    return Measured(served_ms=served_ms, bare_ms=bare_ms, served_rates=served_rates, bare_rates=bare_rates)


async def _singles(
    base: ResidentBase, client: Client, state: TrainingState
) -> tuple[list[float], list[float]]:
    """Time one small forward pass after another, through the service and bare, in turn."""
    work = random_pass(base.facts, 0, 1, 4, backward=False)
    served, bare = [], []
    for number in range(SINGLES + 20):
        started = time.perf_counter()
        await client.do(work)
        middle = time.perf_counter()
        run_policy_passes(base, [_work(state, work)], max_tokens=MICROBATCH)
        if number >= 20:
            served.append(1e3 * (middle - started))
            bare.append(1e3 * (time.perf_counter() - middle))
    return served, bare


async def _served_rate(clients: Sequence[Client], passes: Sequence[Pass]) -> float:
    async def train(client: Client, work: Pass) -> None:
        for _ in range(STEPS):
            await client.do(work, ADAM)

    started = time.perf_counter()
    await asyncio.gather(*(train(client, work) for client, work in zip(clients, passes, strict=True)))
    return CLIENTS * SEQUENCES * TOKENS * STEPS / (time.perf_counter() - started)


def _bare_rate(base: ResidentBase, states: Sequence[TrainingState], passes: Sequence[Pass]) -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        works = [_work(state, work) for state, work in zip(states, passes, strict=True)]
        run_policy_passes(base, works, max_tokens=MICROBATCH)
        for state in states:
            take_steps([state], [ADAM])
    return CLIENTS * SEQUENCES * TOKENS * STEPS / (time.perf_counter() - started)


def _work(state: TrainingState, work: Pass) -> PolicyPass:
    return PolicyPass(lora=state.lora, step=state.step, work=work)


def lora_spec(facts: BaseFacts, seed: int) -> LoraSpec:
    """Return the LoRA of a bench's policy."""
    return LoraSpec(rank=RANK, alpha=2.0 * RANK, targets=facts.targets, seed=seed)


def random_pass(facts: BaseFacts, seed: int, count: int, length: int, *, backward: bool = True) -> Pass:
    """Return a pass of cross entropy over random tokens."""
    rng = random.Random(seed)
    data = []
    for _ in range(count):
        tokens = np.asarray([rng.randrange(facts.vocab_size) for _ in range(length + 1)])
        targets = Array(dtype="int64", shape=(length,), data=tokens[1:].astype("<i8").tobytes())
        data.append(Datum(tokens=tokens[:-1].astype("<i4").tobytes(), inputs={"target_tokens": targets}))
    return Pass(data=tuple(data), loss="cross_entropy", config={}, backward=backward)


def _rows(measured: Measured) -> list[Row]:
    bare_ms = statistics.median(measured.bare_ms)
    rates = statistics.median(measured.served_rates), statistics.median(measured.bare_rates)
    pairs = zip(measured.served_rates, measured.bare_rates, strict=True)
    return [
        make_row(
            "operation_overhead_ms",
            [served - bare_ms for served in measured.served_ms],
            unit="ms",
            goal=5.0,
            better="lower",
            how=f"a forward pass of 4 tokens, from its submission to its result over HTTP, less the "
            f"{bare_ms:.1f} ms that it takes bare: durable row, wake-up, committed result, two requests",
        ),
        make_row(
            "four_clients_efficiency",
            [served / bare for served, bare in pairs],
            unit="ratio",
            goal=0.75,
            better="higher",
            limit=1.0,
            how=f"tiny, {CLIENTS} clients x {SEQUENCES} x {TOKENS} tokens, rank {RANK}, pass and step sent "
            f"together, {STEPS} steps a round, snapshots included: {rates[0]:.0f} tokens/s over the "
            f"{rates[1]:.0f} of the bare batched loop",
        ),
    ]


def _draw(figure: Any, measured: Measured) -> None:
    left, right = figure.subplots(1, 2)
    left.hist(measured.served_ms, bins=40, color="#2a6f97", label="through the service")
    left.hist(measured.bare_ms, bins=10, color="#b0b0b0", label="bare")
    left.set_xlabel("ms of one small operation")
    left.legend()
    right.plot(measured.bare_rates, color="#b0b0b0", label="bare")
    right.plot(measured.served_rates, color="#2a6f97", label=f"{CLIENTS} clients")
    right.set_xlabel("round")
    right.set_ylabel("tokens/s")
    right.set_ylim(bottom=0)
    right.legend()
