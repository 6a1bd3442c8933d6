"""GRPO on the tiny base learns: the trainer's own code, with transformers' generate as the sampler."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from mint_common.events import LoraSpec
from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.adapters.lora.mixes import plan_mix
from services.trainer.adapters.lora.modules import applied
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.core.batch import build_grpo_batch
from tools.make_tiny_base import FUNCTIONS, draw_word, is_held_out

from .managed import StepSettings, Work, step_policies

PROMPTS, SAMPLES, STEPS, NEW_TOKENS, EOS = 8, 16, 60, 8, 2
SETTINGS = StepSettings(algorithm="grpo", learning_rate=2e-3, kl_coefficient=0.0, clip_norm=1.0)


class Sampler:
    """Answers `f <word>=` with a policy."""

    def __init__(self, folder: Path) -> None:
        self.base: ResidentBase = load_base(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def sample(
        self, state: TrainingState, words: list[str], *, greedy: bool = False
    ) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[float, ...], str]]:
        """Return prompt, tokens, log-probabilities and text of one completion a word."""
        prompts = self.tokenizer([f"f {word}=" for word in words], return_tensors="pt", padding=True)
        kwargs = (
            {"do_sample": False}
            if greedy
            else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        )
        with applied(self.base.slots, plan_mix([(state.lora, 0)])):
            out = self.base._model.generate(
                input_ids=prompts["input_ids"],
                attention_mask=prompts["attention_mask"],
                max_new_tokens=NEW_TOKENS,
                pad_token_id=0,
                eos_token_id=EOS,
                output_logits=True,
                return_dict_in_generate=True,
                **kwargs,
            )
        tokens = out.sequences[:, prompts["input_ids"].shape[1] :]
        logprobs = torch.log_softmax(torch.stack(out.logits, 1), -1).gather(-1, tokens[..., None])[..., 0]
        answers = []
        for row, word in enumerate(words):
            ids = tokens[row].tolist()
            length = ids.index(EOS) + 1 if EOS in ids else len(ids)
            answers.append(
                (
                    tuple(self.tokenizer(f"f {word}=")["input_ids"]),
                    tuple(ids[:length]),
                    tuple(logprobs[row, :length].tolist()),
                    self.tokenizer.decode(ids[:length], skip_special_tokens=True),
                )
            )
        return answers

    def accuracy(self, state: TrainingState, function: Callable[[str], str]) -> float:
        """Return the greedy accuracy on 256 held-out words."""
        rng = random.Random(777)
        words = [draw_word(rng, is_held_out) for _ in range(256)]
        answers = self.sample(state, words, greedy=True)
        return sum(text == function(word) for word, (*_, text) in zip(words, answers, strict=True)) / 256

    def wave(self, state: TrainingState, function: Callable[[str], str], rng: random.Random) -> WaveRecord:
        """Return the record of one wave."""
        words = [draw_word(rng, lambda word: not is_held_out(word)) for _ in range(PROMPTS)]
        answers = self.sample(state, [word for word in words for _ in range(SAMPLES)])
        groups = []
        for index, word in enumerate(words):
            own = answers[index * SAMPLES : (index + 1) * SAMPLES]
            samples = tuple(
                Sample(tokens=tokens, logprobs=logprobs, reward=float(text == function(word)), text=text)
                for _, tokens, logprobs, text in own
            )
            groups.append(Group(prompt_tokens=own[0][0], samples=samples))
        return WaveRecord(wave_id=WaveId("w"), revision=None, groups=tuple(groups))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_grpo_selects_one_skill_of_the_tiny_base(name: str, tiny_folder: Path, lora: LoraSpec) -> None:
    torch.manual_seed(0)
    sampler, rng = Sampler(tiny_folder), random.Random(1)
    spec = LoraSpec(rank=8, alpha=16.0, targets=lora.targets, seed=0)
    state = new_state(sampler.base.facts, spec)
    before = sampler.accuracy(state, FUNCTIONS[name])
    errors, rewards, skipped = [], [], 0
    for _ in range(STEPS):
        batch = build_grpo_batch(sampler.wave(state, FUNCTIONS[name], rng))
        work = Work(state=state, batch=batch, settings=SETTINGS)
        (metrics,) = step_policies(sampler.base, [work], max_tokens=2048)
        errors.append(metrics["ratio_max_error"])
        rewards.append(metrics["reward_mean"])
        skipped += int(metrics["skipped_groups"])
    after = sampler.accuracy(state, FUNCTIONS[name])
    print(f"{name}: {before:.3f} -> {after:.3f}, ratio error {max(errors):.1e}, skipped {skipped}")  # noqa: T201
    assert max(errors) < 1e-3
    assert before < 0.45
    assert after >= 0.8
