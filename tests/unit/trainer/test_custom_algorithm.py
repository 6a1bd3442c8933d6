"""An algorithm that a stack adds is computed as its formula says, beside those built in."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from mint_common.algorithms import open_algorithms
from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from mint_common.training import Passed
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.wave_operations import adam_step
from tests.unit.trainer.managed import masked

BETA = 0.2
ALGORITHMS = ManagedAlgorithms(open_algorithms(["examples.ipo.algorithm:ALGORITHM"]))


def test_ipo_moves_pairs_towards_its_target(
    make_model: Callable[[], PreTrainedModel],
    make_base: Callable[[PreTrainedModel], ResidentBase],
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
) -> None:
    base = make_base(make_model())
    policies = [new_state(base.facts, lora) for _ in range(2)]
    record = masked(make_record(groups=4))
    works = []
    for name in ("ipo", "dpo"):
        algorithm = ALGORITHMS.named(name)
        config = algorithm.training.config(BETA, "none")
        works.append(algorithm.wave_batch(algorithm.build_batch(record), config, is_file=True))
    told = []
    for _ in range(4):
        passes = [
            PolicyPass(lora=state.lora, step=state.step, work=work)
            for state, work in zip(policies, works, strict=True)
        ]
        told.append(run_policy_passes(base, passes, max_tokens=64))
        take_steps(policies, [adam_step(learning_rate=1e-3, clip_norm=1.0)] * 2)
    first, last = told[0][0], told[-1][0]
    assert isinstance(first, Passed)
    assert isinstance(last, Passed)
    # Policy and base are equal at first, so each pair is 1 / (2 beta) from its target.
    assert first.metrics["loss:mean"] == pytest.approx((1 / (2 * BETA)) ** 2, rel=1e-4)
    assert 0 < last.metrics["preference_margin:mean"] < 1 / (2 * BETA)
    assert last.metrics["loss:mean"] < first.metrics["loss:mean"]
    assert last.metrics["mean_token_accuracy:mean"] >= 0
