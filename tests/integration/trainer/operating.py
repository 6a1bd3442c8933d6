"""A client of a trainer: operations of one policy in order, over HTTP."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from http_servers import make_server

from mint_common.client.http import InternalHttp
from mint_common.client.trainer import TrainerClient
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.training import (
    Array,
    CheckpointRef,
    Datum,
    Distill,
    Done,
    Lesson,
    Open,
    Operation,
    Pass,
    Pending,
    Refused,
    Result,
    Step,
    Submission,
)
from services.standalone.adapters.launch import free_port
from services.trainer.app import Trainer

from .conftest import LORA

TENANT = TenantId("default")
ADAM = Step(learning_rate=2e-3, beta1=0.9, beta2=0.95, eps=1e-12, weight_decay=0.0, clip_norm=1.0)


def floats(values: Sequence[float]) -> Array:
    """Return an array of float32."""
    return Array(dtype="float32", shape=(len(values),), data=np.asarray(values, "<f4").tobytes())


def ints(values: Sequence[int]) -> Array:
    """Return an array of int64."""
    return Array(dtype="int64", shape=(len(values),), data=np.asarray(values, "<i8").tobytes())


def make_datum(rng: random.Random, *, length: int = 6) -> Datum:
    """Return a datum of random tokens."""
    tokens = [rng.randrange(264) for _ in range(length + 1)]
    return Datum(tokens=np.asarray(tokens[:-1], "<i4").tobytes(), inputs={"target_tokens": ints(tokens[1:])})


def make_pass(seed: int, *, data: int = 3, backward: bool = True) -> Pass:
    """Return a pass of cross entropy over random data."""
    rng = random.Random(seed)
    data_ = tuple(make_datum(rng, length=rng.randint(3, 9)) for _ in range(data))
    return Pass(data=data_, loss="cross_entropy", config={}, backward=backward)


def spoilt_pass(seed: int) -> Pass:
    """Return a pass that nothing is wrong with until its loss overflows."""
    datum = make_datum(random.Random(seed))
    length = len(datum.tokens) // 4
    inputs = {**datum.inputs, "logprobs": floats([-1e4] * length), "advantages": floats([1.0] * length)}
    wild = Datum(tokens=datum.tokens, inputs=inputs)
    return Pass(data=(wild,), loss="importance_sampling", config={}, backward=True)


def make_distill(seed: int, teacher: CheckpointRef, *, data: int = 2) -> Distill:
    """Return a distillation of random completions."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(264) for _ in range(count)]

    def lesson() -> Lesson:
        prompts = [np.asarray(tokens(rng.randint(2, 5)), "<i4").tobytes() for _ in range(2)]
        return Lesson(*prompts, ints(tokens(4)), floats([1.0] * 4))

    return Distill(data=tuple(lesson() for _ in range(data)), teacher=teacher, temperature=1.0)


@dataclass(slots=True)
class Run:
    """A policy that a client trains."""

    client: TrainerClient
    policy_id: PolicyId
    tenant_id: TenantId = TENANT
    seq: int = 0

    async def open(self, lora: LoraSpec = LORA) -> Result:
        """Open the session."""
        return await self.do(Open(base=BaseName("tiny"), lora=lora))

    async def send(self, operation: Operation) -> int:
        """Submit the next operation."""
        seq, self.seq = self.seq, self.seq + 1
        await self.client.submit(Submission(self.policy_id, self.tenant_id, seq, operation))
        return seq

    async def do(self, operation: Operation) -> Result:
        """Submit the next operation and return its result."""
        return await self.result(await self.send(operation))

    async def result(self, seq: int) -> Result:
        """Return the result of an operation."""
        outcome = await self.outcome(seq)
        assert isinstance(outcome, Done), outcome
        return outcome.result

    async def refusal(self, seq: int) -> dict[str, object]:
        """Return why an operation was refused."""
        outcome = await self.outcome(seq)
        assert isinstance(outcome, Refused), outcome
        return dict(outcome.error)

    async def outcome(self, seq: int) -> Done | Refused:
        """Return the outcome of an operation when it is there."""
        async with asyncio.timeout(60):
            while isinstance(
                outcome := await self.client.outcome(self.policy_id, seq, wait_seconds=10), Pending
            ):
                pass
        return outcome


@asynccontextmanager
async def serving(trainer: Trainer) -> AsyncIterator[TrainerClient]:
    """Serve a trainer's HTTP in this process."""
    port = free_port()
    server = make_server(trainer.http, port=port)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    client = TrainerClient(InternalHttp(f"http://127.0.0.1:{port}", token="secret"))
    try:
        yield client
    finally:
        await client.aclose()
        server.should_exit = True
        await task
