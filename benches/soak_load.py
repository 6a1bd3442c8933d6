"""The load of bench soak: chats with base and policies, and Tinker clients that make and train policies."""

import asyncio
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field

import httpx
import tinker
from tinker import types

CHATTERS, TRAINERS = 4, 2
STEPS, SEQUENCES, LENGTH, RANK = 4, 4, 32, 8
"""Steps of each policy before it is saved for sampling and the next policy is made."""
RECENT = 24
"""Policies that are talked to: more than the engine has slots, so that adapters come and go."""
CHATS_PER_STEP = 10
"""Maximum chats per optimizer step. Serving goes first: without a limit, a busy machine hardly trains."""
MODEL = "tiny"


@dataclass(slots=True, kw_only=True)
class Done:
    """Counts of finished operations by kind, and the first failures."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def operations(self) -> int:
        """Return chats and optimizer steps."""
        return self.counts["chats"] + self.counts["steps"]

    def fail(self, what: str) -> None:
        """Count a failure and keep the first ones."""
        self.counts["failures"] += 1
        self.failures.extend([what] if len(self.failures) < 10 else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """State that the clients share. The load goes on until ``end``, a time of `time.monotonic`."""

    url: str
    api_key: str
    end: float
    done: Done = field(default_factory=Done)
    models: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def goes_on(self) -> bool:
        """Return whether the time is not over."""
        return time.monotonic() < self.end

    async def run(self) -> None:
        """Keep all clients busy to the end."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(CHATTERS):
                tasks.create_task(self._chat(random.Random(number)))
            for number in range(TRAINERS):
                tasks.create_task(asyncio.to_thread(self._train, random.Random(number)))

    async def _chat(self, rng: random.Random) -> None:
        headers = {"authorization": f"Bearer {self.api_key}"}
        async with httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=120, trust_env=False
        ) as http:
            while self.goes_on:
                if self.done.counts["chats"] >= CHATS_PER_STEP * (1 + self.done.counts["steps"]):
                    await asyncio.sleep(0.01)
                    continue
                try:
                    answer = await http.post("/v1/chat/completions", json=self._asked(rng))
                except httpx.HTTPError as error:
                    self.done.fail(f"chat: {error!r}")
                    continue
                if answer.status_code == httpx.codes.OK:
                    self.done.counts["chats"] += 1
                elif answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
                else:
                    self.done.fail(f"chat: {answer.status_code} {answer.text[:200]}")

    def _asked(self, rng: random.Random) -> dict[str, object]:
        return {
            "model": rng.choice([MODEL, *self.models]),
            "messages": [{"role": "user", "content": f"f abcd={rng.randrange(10**6)}"}],
            "max_tokens": 4,
            "stream": rng.random() < 0.5,
        }

    def _train(self, rng: random.Random) -> None:
        service = tinker.ServiceClient(base_url=self.url, api_key=self.api_key)
        while self.goes_on:
            try:
                self._train_one(service, rng)
            except tinker.TinkerError as error:
                self.done.fail(f"tinker: {error!r}"[:300])
        service.close("success").result()

    def _train_one(self, service: tinker.ServiceClient, rng: random.Random) -> None:
        seed = rng.randrange(1000)
        client = service.create_lora_training_client(f"mint/{MODEL}", rank=RANK, seed=seed).result()
        self.done.counts["policies"] += 1
        for _ in range(STEPS):
            passed = client.forward_backward([_datum(rng) for _ in range(SEQUENCES)], "cross_entropy")
            stepped = client.optim_step(types.AdamParams(learning_rate=1e-3))
            passed.result()
            stepped.result()
            self.done.counts["steps"] += 1
            if not self.goes_on:
                return
        self.models.append(client.save_weights_for_sampler("soak").result().path)


def _datum(rng: random.Random) -> types.Datum:
    tokens = [rng.randrange(20, 90) for _ in range(LENGTH + 1)]
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[LENGTH]),
            "weights": types.TensorData(data=[1.0] * LENGTH, dtype="float32", shape=[LENGTH]),
        },
    )
