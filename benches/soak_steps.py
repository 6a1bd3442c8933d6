"""The load of bench soak --load steps: clients of one trainer that open, train and close policies."""

import asyncio
import random
import time
from dataclasses import dataclass, field

from benches.bases import TINY
from benches.operations import ADAM, Client, lora_spec, random_pass
from benches.soak_load import LENGTH, SEQUENCES, STEPS, Done
from benches.stacks import BenchStack
from mint_common.adapters_format import read_base_facts
from mint_common.client.trainer import TrainerClient
from mint_common.errors import MintError
from mint_common.ids import BaseName, PolicyId
from mint_common.training import Close, Open

CLIENTS = 4
FACTS = read_base_facts(TINY)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """Training alone: nothing is saved, exported or sampled. It goes on until ``end`` of `time.monotonic`."""

    stack: BenchStack
    end: float
    done: Done = field(default_factory=Done)

    async def run(self) -> None:
        """Keep all clients busy to the end."""
        async with self.stack.http("trainer-tiny") as http, asyncio.TaskGroup() as tasks:
            for number in range(CLIENTS):
                tasks.create_task(self._train(TrainerClient(http), random.Random(number)))

    async def _train(self, trainer: TrainerClient, rng: random.Random) -> None:
        while time.monotonic() < self.end:
            client = Client(trainer, PolicyId(f"policy_{rng.getrandbits(64):x}"))
            try:
                await self._train_one(client, rng)
            except MintError as error:
                self.done.fail(f"trainer: {error!r}"[:300])

    async def _train_one(self, client: Client, rng: random.Random) -> None:
        await client.do(Open(base=BaseName("tiny"), lora=lora_spec(FACTS, rng.randrange(1000))))
        self.done.counts["policies"] += 1
        for _ in range(STEPS):
            await client.do(random_pass(FACTS, rng.randrange(10**6), SEQUENCES, LENGTH), ADAM)
            self.done.counts["steps"] += 1
        await client.do(Close())
