"""Small bases and rollout records for the trainer's tests."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from mint_common.adapters_format import BaseFacts
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, Digest, WaveId
from mint_common.records import Group, Sample, WaveRecord
from services.trainer.adapters.lora import experts
from services.trainer.adapters.model.resident_base import ResidentBase

from .cuda_rules import checked_grouped_mm

TINY = Path(__file__).parents[3] / "bases" / "tiny"
LEAVES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cuda_preconditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "grouped_mm", checked_grouped_mm)


@pytest.fixture
def tiny_folder() -> Path:
    """The committed tiny base."""
    return TINY


def random_model(architecture: str) -> PreTrainedModel:
    """Return a random model, the same at every call."""
    torch.manual_seed(0)
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, tie_word_embeddings=True)).eval()


@pytest.fixture(params=["llama", "qwen3"])
def make_model(request: pytest.FixtureRequest) -> Callable[[], PreTrainedModel]:
    """Make the same random model again and again, of either architecture."""
    return lambda: random_model(request.param)


@pytest.fixture
def make_base() -> Callable[[PreTrainedModel], ResidentBase]:
    """Make a resident base of a model; the model itself is changed by that."""
    return lambda model: ResidentBase(model, facts_of(model))


def facts_of(model: PreTrainedModel) -> BaseFacts:
    """Return the facts of a model that was never on disk."""
    modules = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in LEAVES
    }
    return BaseFacts(
        name=BaseName("random"),
        digest=Digest("sha256:" + "0" * 64),
        architecture=model.config.architectures[0] if model.config.architectures else "Random",
        vocab_size=model.config.vocab_size,
        max_context=model.config.max_position_embeddings,
        targets=tuple(sorted(LEAVES)),
        modules=modules,
        max_rank=16,
    )


@pytest.fixture
def lora() -> LoraSpec:
    """Every target, rank 4, alpha 8."""
    return LoraSpec(rank=4, alpha=8.0, targets=tuple(sorted(LEAVES)), seed=7)


@pytest.fixture
def make_record() -> Callable[..., WaveRecord]:
    """Make a rollout record of random tokens; by default every group has differing rewards."""

    def make(
        *, seed: int = 0, groups: int = 3, samples: int = 4, vocab_size: int = 40, skipped: int = 0
    ) -> WaveRecord:
        rng = random.Random(seed)

        def tokens(least: int, most: int) -> tuple[int, ...]:
            return tuple(rng.randrange(vocab_size) for _ in range(rng.randint(least, most)))

        def sample(reward: float) -> Sample:
            ids = tokens(1, 6)
            logprobs = tuple(rng.uniform(-6.0, -0.1) for _ in ids)
            return Sample(tokens=ids, logprobs=logprobs, reward=reward, text="")

        return WaveRecord(
            wave_id=WaveId("wave_1"),
            revision=None,
            groups=tuple(
                Group(
                    prompt_tokens=tokens(2, 9),
                    samples=tuple(sample(0.0 if index < skipped else float(n % 2)) for n in range(samples)),
                )
                for index in range(groups)
            ),
        )

    return make
