"""Epochs and minibatches of a wave lead to the weights of TRL's `GRPOTrainer` with ``num_iterations``.

TRL generates a batch and trains on it; the same answers, rewards and log-probabilities are a wave here.
"""

import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mint_common.events import PolicyGradient
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.adapters.model.resident_base import load_base
from services.trainer.adapters.states.training_state import new_state
from services.trainer.adapters.training.optimizer import take_steps
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.core.minibatches import minibatch
from services.trainer.core.wave_operations import BETAS, EPSILON, adam_step
from tests.unit.trainer.managed import MANAGED
from tests.unit.trainer.plain_peft import peft_twin
from tests.unit.trainer.test_lora import with_random_b

from .conftest import LORA, TINY

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
RATE, PROMPTS, SAMPLES, PARTS, EPOCHS, LENGTH = 2e-3, 4, 6, 2, 2, 8


def reward(ids: list[int]) -> float:
    """Return a reward that differs within groups, whose answers have the same letters in other orders."""
    return float(sum(place * token for place, token in enumerate(ids)) % 7)


def trained_by_trl(twin: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Train on one generation; return it."""
    with warnings.catch_warnings(action="ignore"):  # about a newer vLLM, which nothing here uses
        from datasets import Dataset
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer import grpo_trainer
    options = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=PROMPTS * SAMPLES // PARTS,
        steps_per_generation=PARTS,
        num_iterations=EPOCHS,
        max_steps=PARTS * EPOCHS,
        num_generations=SAMPLES,
        max_completion_length=LENGTH,
        loss_type="bnpo",
        epsilon=0.2,
        beta=0.0,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=BETAS[0],
        adam_beta2=BETAS[1],
        adam_epsilon=EPSILON,
        weight_decay=0.0,
        max_grad_norm=1.0,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
    )
    trainer = GRPOTrainer(
        model=twin,
        reward_funcs=lambda completion_ids, **_: [reward(ids) for ids in completion_ids],
        args=options,
        train_dataset=Dataset.from_list(
            [{"prompt": f"f {word}="} for word in ("abc", "defg", "hijk", "lmnop")]
        ),
        processing_class=AutoTokenizer.from_pretrained(TINY),
    )
    generated: list[dict[str, torch.Tensor]] = []
    generate = trainer._generate_and_score_completions

    def noted(inputs: Any) -> dict[str, torch.Tensor]:
        generated.append(generate(inputs))
        return generated[-1]

    trainer._generate_and_score_completions = noted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo_trainer, "shuffle_sequence_dict", lambda batch: batch)
        trainer.train()
    (batch,) = generated
    return batch


def wave_of(batch: dict[str, torch.Tensor]) -> WaveRecord:
    """Return a generation as a record; every second group is in the other part."""
    groups = []
    for number in range(PROMPTS):
        rows = range(number * SAMPLES, (number + 1) * SAMPLES)
        answers = []
        for row in rows:
            length = int(batch["completion_mask"][row].sum())
            ids = batch["completion_ids"][row, :length].tolist()
            logprobs = tuple(batch["old_per_token_logps"][row, :length].tolist())
            answers.append(Sample(tokens=tuple(ids), logprobs=logprobs, reward=reward(ids), text=""))
        prompt = batch["prompt_ids"][rows[0]][batch["prompt_mask"][rows[0]] > 0]
        groups.append(Group(prompt_tokens=tuple(prompt.tolist()), samples=tuple(answers)))
    ordered = [group for part in zip(groups[:2], groups[2:], strict=True) for group in part]
    return WaveRecord(wave_id=WaveId("wave"), revision=None, groups=tuple(ordered))


def test_several_steps_on_one_generation_are_trl_s(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = load_base(TINY)
    state = new_state(base.facts, LORA)
    with_random_b(state.lora, std=0.02)
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    twin = peft_twin(model, LORA, state.lora)
    for name, weight in twin.named_parameters():
        weight.requires_grad_("lora_" in name)
    before = state.lora.leaf.detach().clone()
    batch = trained_by_trl(twin, tmp_path)

    gradient = PolicyGradient(loss="clip", clip_low=0.8, clip_high=1.2, epochs=EPOCHS, minibatches=PARTS)
    algorithm = MANAGED.named("grpo", gradient, max_new_tokens=LENGTH)
    whole = algorithm.build_batch(wave_of(batch))
    assert whole.skipped_groups == 0
    bounded = 0.0
    for _ in range(EPOCHS):
        for number in range(PARTS):
            part = minibatch(whole, number, count=PARTS)
            work = algorithm.wave_batch(part, algorithm.training.config(0.0, "none"))
            passes = [PolicyPass(lora=state.lora, step=state.step, work=work)]
            (passed,) = run_policy_passes(base, passes, max_tokens=512)
            bounded += passed.metrics["masked_share:mean"]
            take_steps([state], [adam_step(learning_rate=RATE, clip_norm=1.0)])
    assert bounded > 0
    theirs = peft.get_peft_model_state_dict(twin)
    moved = float((state.lora.leaf.detach() - before).abs().max())
    assert moved > RATE * PARTS
    for name, view in state.lora.named():
        assert torch.allclose(view, theirs[name], atol=moved / 100), name
