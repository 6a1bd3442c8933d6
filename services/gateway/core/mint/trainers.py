"""Trainers as a tenant sees them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mint_common.ids import BaseName, PolicyId
from mint_common.training import PoolTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerEntry:
    """A trainer: ``held`` policies are at work on it, of all tenants or one; ``room`` are stepped together.

    ``policies`` are the tenant's among them. A ``draining`` trainer lets its policies go and takes no others.
    """

    trainer_id: str
    base: BaseName
    state: Literal["training", "draining"]
    held: int
    room: int
    policies: Sequence[PolicyId]


def describe_trainer(trainer: PoolTrainer, *, of_all: bool) -> TrainerEntry:
    """Return a trainer's entry; ``of_all``: it counts the policies of all tenants."""
    return TrainerEntry(
        trainer_id=trainer.trainer_id,
        base=trainer.base,
        state="draining" if trainer.is_draining else "training",
        held=trainer.held if of_all else len(trainer.policies),
        room=trainer.room,
        policies=trainer.policies,
    )
