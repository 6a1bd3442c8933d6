"""Policy gradients against TRL's own loss of `GRPOTrainer` on the same batch: values and gradients.

TRL's method runs on what it reads of a trainer; its log-probabilities are given. dppo and the losses without
a preset are not in TRL: `tests/unit/trainer/test_policy_gradients.py` has their references.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import random
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mint_common.algorithms import Algorithms
from mint_common.events import Overlong, PolicyGradient
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.core.advantages import overlong_punishment
from services.trainer.core.algorithms.algorithm import ManagedAlgorithms
from services.trainer.core.losses.loss import TokenInputs, TokenLoss
from services.trainer.core.packing import PackedSequence
from services.trainer.core.wave_batch import WaveBatch

pytestmark = pytest.mark.integration
MANAGED = ManagedAlgorithms(Algorithms())


def trl() -> tuple[Any, Any]:
    """Return TRL's trainer and its punishment of long answers; they import vLLM, so not while collecting."""
    with warnings.catch_warnings(action="ignore"):  # about a newer vLLM, which nothing here uses
        from trl import GRPOTrainer
        from trl.rewards import get_soft_overlong_punishment
    return GRPOTrainer, get_soft_overlong_punishment


LONGEST = 9
UNCLIPPED = 1e9
THEIRS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "dapo", "epsilon_low": 1.0, "epsilon_high": UNCLIPPED},
    "dr-grpo": {"loss_type": "dr_grpo", "epsilon_low": 1.0, "epsilon_high": UNCLIPPED},
    "rloo": {"loss_type": "dapo", "epsilon_low": 1.0, "epsilon_high": UNCLIPPED},
    "dapo": {"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.28},
    "gspo": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "epsilon_low": 3e-4,
        "epsilon_high": 4e-4,
    },
    "cispo": {"loss_type": "cispo", "epsilon_low": 0.2, "epsilon_high": 5.0},
}
"""Settings of TRL that are a preset; it has no loss without a clip."""


def record(seed: int, *, drift: float) -> tuple[WaveRecord, dict[tuple[int, ...], list[float]]]:
    """Return a record, and the policy's log-probabilities of each answer, apart by about ``drift``."""
    rng, policy = random.Random(seed), {}
    groups = []
    for _ in range(3):
        samples = []
        for number in range(4):
            tokens = tuple(rng.randrange(1000) for _ in range(rng.randint(1, LONGEST)))
            policy[tokens] = [rng.uniform(-3.0, -0.05) for _ in tokens]
            logprobs = tuple(lp - rng.gauss(0.0, drift) for lp in policy[tokens])
            samples.append(Sample(tokens=tokens, logprobs=logprobs, reward=float(number % 3 > 0), text=""))
        groups.append(Group(prompt_tokens=(1, 2), samples=tuple(samples)))
    return WaveRecord(wave_id=WaveId("wave"), revision=None, groups=tuple(groups)), policy


Policy = dict[tuple[int, ...], list[float]]


def ours(work: WaveBatch, policy: Policy, base: Policy | None = None) -> tuple[float, list[float]]:
    """Return the loss of a wave, and its gradient for each token."""
    line = PackedSequence(policy=0, rows=work.batch.rows)
    logprobs = [lp for row in work.batch.rows for lp in policy[row.tokens]]
    logprobs_T = torch.tensor(logprobs, dtype=torch.float64, requires_grad=True)
    assert isinstance(work.loss, TokenLoss)
    base_T = None
    if base is not None:
        base_T = torch.tensor([lp for row in work.batch.rows for lp in base[row.tokens]], dtype=torch.float64)
    inputs = TokenInputs(logprobs_T=logprobs_T, sequences=line.sequences(), config=work.config, base_T=base_T)
    loss = work.loss.formula(inputs) / work.divisor
    loss.backward()
    assert logprobs_T.grad is not None
    return float(loss.detach()), logprobs_T.grad.tolist()


def theirs(
    work: WaveBatch, policy: Policy, settings: dict[str, Any], base: Policy | None = None
) -> tuple[float, list[float]]:
    """Return the same of TRL's loss, on the same rows and advantages."""
    rows = work.batch.rows
    mask_BT = torch.tensor([[float(t < len(row.tokens)) for t in range(LONGEST)] for row in rows])

    def padded(columns: list[list[float]]) -> torch.Tensor:
        return torch.tensor([[*one, *[0.0] * (LONGEST - len(one))] for one in columns], dtype=torch.float64)

    logprobs_BT = padded([policy[row.tokens] for row in rows]).requires_grad_()
    options = {"importance_sampling_level": "token", "beta": 0.0, **settings}
    trainer = SimpleNamespace(
        **options,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs_BT, torch.zeros_like(mask_BT), None),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, **_: x, gather=lambda x: x),
        model=SimpleNamespace(training=True),
        _metrics={"train": defaultdict(list)},
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
    )
    ids_BT = torch.zeros(len(rows), LONGEST, dtype=torch.long)
    inputs = {
        "prompt_ids": ids_BT[:, :1],
        "prompt_mask": mask_BT[:, :1],
        "completion_ids": ids_BT,
        "completion_mask": mask_BT,
        "advantages": torch.tensor([row.advantage for row in rows], dtype=torch.float64),
        "old_per_token_logps": padded([list(row.logprobs) for row in rows]),
        "num_items_in_batch": mask_BT.sum(),
    }
    if base is not None:
        inputs["ref_per_token_logps"] = padded([base[row.tokens] for row in rows])
    loss = trl()[0]._compute_loss(trainer, None, inputs)
    loss.backward()
    assert logprobs_BT.grad is not None
    return float(loss.detach()), logprobs_BT.grad[mask_BT > 0].tolist()


@pytest.mark.parametrize("name", THEIRS)
def test_a_preset_is_trl_s_on_the_same_batch(name: str) -> None:
    for seed in range(5):
        wave, policy = record(seed, drift=5e-4 if name == "gspo" else 0.8)
        algorithm = MANAGED.named(name, max_new_tokens=LONGEST)
        work = algorithm.wave_batch(algorithm.build_batch(wave), algorithm.training.config(0.0, "none"))
        value, slopes = ours(work, policy)
        expected, expected_slopes = theirs(work, policy, THEIRS[name])
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert slopes == pytest.approx(expected_slopes, rel=1e-5, abs=1e-7)


def test_the_sequence_mean_of_clipped_tokens_is_trl_s_grpo() -> None:
    wave, policy = record(1, drift=0.5)
    own = PolicyGradient(loss="clip", aggregation="sequence_mean", clip_low=0.8, clip_high=1.2)
    algorithm = MANAGED.named("grpo", own, max_new_tokens=LONGEST)
    work = algorithm.wave_batch(algorithm.build_batch(wave), algorithm.training.config(0.0, "none"))
    value, slopes = ours(work, policy)
    settings = {"loss_type": "grpo", "epsilon_low": 0.2, "epsilon_high": 0.2}
    expected, expected_slopes = theirs(work, policy, settings)
    assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert slopes == pytest.approx(expected_slopes, rel=1e-5, abs=1e-7)


def test_a_kl_to_the_base_is_trl_s_on_samples_of_older_weights() -> None:
    """As its ``use_bias_correction_kl`` has it, by default; no ratio of the samples is above our limit."""
    rng = random.Random(7)
    for seed in range(5):
        wave, policy = record(seed, drift=0.2)
        base = {tokens: [lp - rng.gauss(0.0, 0.5) for lp in own] for tokens, own in policy.items()}
        own = PolicyGradient(loss="clip", clip_low=0.8, clip_high=1.2)
        algorithm = MANAGED.named("grpo", own, max_new_tokens=LONGEST)
        config = algorithm.training.config(0.3, "none")
        work = algorithm.wave_batch(algorithm.build_batch(wave, pulls=algorithm.pulls(config)), config)
        settings = {"loss_type": "dapo", "epsilon_low": 0.2, "epsilon_high": 0.2, "beta": 0.3}
        expected, expected_slopes = theirs(work, policy, settings, base)
        value, slopes = ours(work, policy, base)
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-7)
        assert slopes == pytest.approx(expected_slopes, rel=1e-5, abs=1e-7)


def test_long_answers_are_punished_as_trl_does_it() -> None:
    punish = trl()[1](max_completion_len=100, soft_punish_cache=20)
    lengths = (1, 79, 80, 81, 95, 100)
    expected = punish(completion_ids=[[1] * length for length in lengths])
    found = [overlong_punishment(length, Overlong(buffer=20), max_new_tokens=100) for length in lengths]
    assert found == pytest.approx(expected)
