"""Conversations of growing length: each turn repeats all of the earlier ones, as clients of chat do."""

import random
from dataclasses import dataclass

from mint_common.ids import Digest, TenantId
from tests.sim.fleet.fleet import Fleet
from tests.sim.fleet.model import TOKEN_BYTES, Request
from tests.sim.fleet.traffic import name_digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """How many conversations there are, and how long; lengths in tokens, times in seconds."""

    policies: int = 64
    of_policy: int = 8
    turns: int = 10
    instructions: int = 512
    asked: int = 64
    answered: int = 64
    pause_seconds: float = 2.0
    begin_within_seconds: float = 10.0


def converse(fleet: Fleet, talk: Talk, rng: random.Random) -> None:
    """Publish the policies, then hold the conversations with them until all have ended."""
    for number in range(talk.policies):
        digest, tenant_id = name_digest(number), TenantId(f"tenant-{number % 8}")
        fleet.publish(digest, tenant_id, at=0.0)
        instructions = rng.randbytes(talk.instructions * TOKEN_BYTES)
        for _ in range(talk.of_policy):
            at = 5.0 + rng.uniform(0, talk.begin_within_seconds)
            _Conversation(fleet, talk, rng, digest, tenant_id).say(instructions, 1, at=at)
    while fleet.open_requests and fleet.world.now < 1200:
        fleet.world.run(fleet.world.now + 10)


def hit_ratio(fleet: Fleet) -> float:
    """Return which part of the prompts' tokens was in the prefix caches."""
    prompts = sum(request.prompt_tokens for request in fleet.requests)
    return sum(request.cached_tokens for request in fleet.requests) / prompts


def imbalance(fleet: Fleet) -> float:
    """Return the tokens that the busiest engine answered for, over the engines' mean."""
    tokens = dict.fromkeys(fleet.engines, 0)
    for request in fleet.requests:
        tokens[request.tried[-1]] += request.prompt_tokens + request.tokens
    return max(tokens.values()) * len(tokens) / sum(tokens.values())


@dataclass(frozen=True, slots=True)
class _Conversation:
    fleet: Fleet
    talk: Talk
    rng: random.Random
    digest: Digest
    tenant_id: TenantId

    def say(self, before: bytes, turn: int, *, at: float) -> None:
        talk, rng = self.talk, self.rng
        request = Request(
            tenant_id=self.tenant_id,
            digest=self.digest,
            tokens=talk.answered,
            at=at,
            prompt=before + rng.randbytes(talk.asked * TOKEN_BYTES),
            then=lambda ended: self._go_on(ended, turn),
        )
        self.fleet.submit([request])

    def _go_on(self, ended: Request, turn: int) -> None:
        if turn < self.talk.turns:
            answer = self.rng.randbytes(self.talk.answered * TOKEN_BYTES)
            pause_seconds = self.rng.expovariate(1 / self.talk.pause_seconds)
            self.say(ended.prompt + answer, turn + 1, at=self.fleet.world.now + pause_seconds)
