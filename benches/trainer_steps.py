"""Steps of the trainer for benches: policies, random waves of theirs, and a step of some at once."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.events import LoraSpec, PolicyGradient
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import (
    TrainingState,
    new_state,
    park_state,
    resume_state,
)
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.algorithms.policy_gradient import token_loss
from services.trainer.core.batch import Batch, Row
from services.trainer.core.wave_batch import WaveBatch
from services.trainer.core.wave_operations import adam_step

ADAM = adam_step(learning_rate=1e-3, clip_norm=1.0)
_GRPO = token_loss(PolicyGradient())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A policy, and the rows of its wave."""

    state: TrainingState
    batch: Batch


def step_policies(base: ResidentBase, works: Sequence[Work], *, max_tokens: int) -> None:
    """Compute the passes of some waves together, then their steps."""
    passes = [
        PolicyPass(
            lora=work.state.lora,
            step=work.state.step,
            work=WaveBatch(loss=_GRPO, config={"kl_coefficient": 0.0}, batch=work.batch, is_sampled=True),
        )
        for work in works
    ]
    run_policy_passes(base, passes, max_tokens=max_tokens)
    take_steps([work.state for work in works], [ADAM] * len(works))


def state_on(base: ResidentBase, *, rank: int, seed: int) -> TrainingState:
    """Return a new policy over every target, on the base's device, as the trainer brings it there."""
    spec = LoraSpec(rank=rank, alpha=2.0 * rank, targets=base.facts.targets, seed=seed)
    return resume_state(park_state(new_state(base.facts, spec)), base.device)


def batch_of(rows: Sequence[Row]) -> Batch:
    """Return the batch of a wave without skipped groups."""
    total = sum(len(row.tokens) for row in rows)
    return Batch(rows=tuple(rows), probe=(), total_tokens=total, skipped_groups=0, reward_mean=0.0)


def random_row(rng: random.Random, base: ResidentBase, prompt: tuple[int, ...], length: int) -> Row:
    """Return a row of so many random tokens behind a prompt."""
    return Row(
        prompt=prompt,
        tokens=random_tokens(rng, base, length),
        logprobs=(-3.0,) * length,
        advantage=rng.uniform(-1.0, 1.0),
    )


def random_groups(base: ResidentBase, *, groups: int, group: int, prompt: int, answers: int) -> Batch:
    """Return a wave of groups of so many random answers to a prompt each, of so many tokens."""
    rng = random.Random(0)
    rows: list[Row] = []
    for _ in range(groups):
        shared = random_tokens(rng, base, prompt)
        rows += [random_row(rng, base, shared, answers) for _ in range(group)]
    return batch_of(rows)


def random_tokens(rng: random.Random, base: ResidentBase, count: int) -> tuple[int, ...]:
    """Return so many tokens of the base's vocabulary."""
    return tuple(rng.randrange(base.facts.vocab_size) for _ in range(count))
