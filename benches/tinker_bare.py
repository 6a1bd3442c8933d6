"""A training step without any of the system: the trainer's own arithmetic, in this process."""

from collections.abc import Sequence

import numpy as np

from benches.bases import base_folder
from benches.tinker_stack import RANK, RATE, token_rows
from mint_common.events import LoraSpec
from mint_common.training import Array, Datum, Pass, Step
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes

MAX_TOKENS = 4096


class BareTraining:
    """One policy: no service, no network, no checkpoint."""

    def __init__(self, base: str) -> None:
        self._base: ResidentBase = load_base(base_folder(base))
        facts = self._base.facts
        spec = LoraSpec(rank=RANK, alpha=32.0, targets=facts.targets, seed=1)
        self._state: TrainingState = new_state(facts, spec)
        data = tuple(_datum(row) for row in token_rows(facts))
        self._pass = Pass(data=data, loss="cross_entropy", config={}, backward=True)
        self._step = Step(
            learning_rate=RATE, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0, clip_norm=0.0
        )

    def step(self) -> None:
        """Take one."""
        work = PolicyPass(lora=self._state.lora, step=self._state.step, work=self._pass)
        run_policy_passes(self._base, [work], max_tokens=MAX_TOKENS)
        take_steps([self._state], [self._step])


def _datum(row: Sequence[int]) -> Datum:
    targets = np.array(row[1:], "<i8")
    return Datum(
        tokens=np.array(row[:-1], "<i4").tobytes(),
        inputs={"target_tokens": Array(dtype="int64", shape=targets.shape, data=targets.tobytes())},
    )
