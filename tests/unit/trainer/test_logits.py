"""Logits in chunks: what they come to is what they come to at once, and their memory is bounded."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from mint_common.events import LoraSpec
from mint_common.records import WaveRecord
from mint_common.training import Distilled, LossName, Pass, Passed
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import TrainingState, new_state
from services.trainer.adapters.training.distillation import distillation_runs
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from services.trainer.adapters.training.runs import complete
from services.trainer.core.microbatches import fitting_targets
from services.trainer.core.wave_batch import WaveBatch

from .test_distillation import make_distill
from .test_file_passes import file_record, work_of
from .test_lora import with_random_b
from .test_passes import LOSSES, make_datum, make_pass

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]
MakeRecord = Callable[..., WaveRecord]


Score = Callable[..., tuple[Passed, torch.Tensor]]


@pytest.fixture
def base(make_model: MakeModel, make_base: MakeBase) -> ResidentBase:
    """A random base, of either architecture."""
    return make_base(make_model())


@pytest.fixture
def score(base: ResidentBase, lora: LoraSpec, monkeypatch: pytest.MonkeyPatch) -> Score:
    """Return what a pass comes to where the logits of so many targets fit, and the gradient."""

    def compute(work: Pass | WaveBatch, *, targets: int) -> tuple[Passed, torch.Tensor]:
        state = trained(base, lora)
        monkeypatch.setattr(ResidentBase, "logits_targets", targets)
        (result,) = run_policy_passes(base, [PolicyPass(lora=state.lora, step=0, work=work)], max_tokens=64)
        assert isinstance(result, Passed)
        gradient = state.lora.leaf.grad
        return result, torch.zeros(0) if gradient is None else gradient

    return compute


def trained(base: ResidentBase, spec: LoraSpec) -> TrainingState:
    state = new_state(base.facts, spec)
    with_random_b(state.lora)
    return state


def assert_alike(whole: tuple[Passed, torch.Tensor], cut: tuple[Passed, torch.Tensor]) -> None:
    assert cut[0].metrics == pytest.approx(whole[0].metrics, rel=1e-5, abs=1e-6)
    for found, expected in zip(cut[0].logprobs, whole[0].logprobs, strict=True):
        np.testing.assert_allclose(
            np.frombuffer(found.data, "<f4"), np.frombuffer(expected.data, "<f4"), atol=1e-6
        )
    assert torch.allclose(cut[1], whole[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_of_a_client_comes_to_the_same_in_chunks(loss: LossName, score: Score) -> None:
    work = make_pass(1, loss, count=4)
    assert_alike(score(work, targets=64), score(work, targets=3))


def test_several_targets_a_position_come_to_the_same_in_chunks(score: Score) -> None:
    rng = np.random.default_rng(0)
    data = (make_datum(rng, "cross_entropy", length=8, targets=3), make_datum(rng, "cross_entropy", length=7))
    work = Pass(data=data, loss="cross_entropy", config={}, backward=True)
    assert_alike(score(work, targets=64), score(work, targets=2))


@pytest.mark.parametrize("algorithm", ["grpo", "sft", "dpo", "kto"])
@pytest.mark.parametrize("backward", [True, False])
def test_every_algorithm_of_a_job_comes_to_the_same_in_chunks(
    algorithm: str, backward: bool, make_record: MakeRecord, score: Score
) -> None:
    """With counted hits and, of GRPO, at another temperature, against the base."""
    is_grpo = algorithm == "grpo"
    record = replace(make_record(), logprobs_temperature=0.7)
    work = work_of(algorithm, record if is_grpo else file_record(make_record, algorithm))
    work = replace(work, backward=backward or is_grpo, is_file=not is_grpo)
    assert_alike(score(work, targets=64), score(work, targets=2))


def test_a_distillation_comes_to_the_same_in_parts(
    base: ResidentBase, lora: LoraSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = make_distill(0, count=4, temperature=1.3)
    found = []
    for targets in (64 * 4, 2 * 4):
        student, teacher = (trained(base, replace(lora, seed=seed)) for seed in (1, 2))
        monkeypatch.setattr(ResidentBase, "logits_targets", targets)
        result = complete(distillation_runs(base, student.lora, teacher.lora, work, step=0, max_tokens=64))
        assert isinstance(result, Distilled)
        found.append((result, student.lora.leaf.grad))
    (whole, whole_grad), (cut, cut_grad) = found
    assert cut.losses == pytest.approx(whole.losses, rel=1e-5, abs=1e-6)
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-6)
    assert torch.allclose(cut_grad, whole_grad, atol=1e-6, rtol=1e-5)


def test_a_gpu_with_more_room_takes_more_targets_at_a_time() -> None:
    vocabulary = 152_000
    assert fitting_targets(vocabulary) == 441
    assert fitting_targets(vocabulary, free_bytes=70 << 30) == 4096
    assert fitting_targets(vocabulary, free_bytes=1 << 30) == 64
    assert fitting_targets(vocabulary, free_bytes=0) == 1
    assert fitting_targets(1 << 40) == 1


_ONE_ROW = """
import resource, sys
import numpy as np, torch
from transformers import LlamaConfig, LlamaForCausalLM
from mint_common.events import LoraSpec
from mint_common.training import Array, Datum, Pass
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.adapters.training.policy_passes import PolicyPass, run_policy_passes
from tests.unit.trainer.conftest import LEAVES, facts_of
torch.set_num_threads(1)
length, vocabulary = int(sys.argv[1]), 152_000
model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, hidden_size=8, intermediate_size=8,
    num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    max_position_embeddings=length)).eval()
base = ResidentBase(model, facts_of(model))
state = new_state(base.facts, LoraSpec(rank=1, alpha=1.0, targets=tuple(sorted(LEAVES)), seed=1))
ids = np.arange(length) % vocabulary
target = Array(dtype="int64", shape=(length,), data=ids.astype("<i8").tobytes())
datum = Datum(tokens=ids.astype("<i4").tobytes(), inputs={"target_tokens": target})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
work = PolicyPass(lora=state.lora, step=0, work=Pass(data=(datum,), loss="cross_entropy", config={},
    backward=True))
(result,) = run_policy_passes(base, [work], max_tokens=512)
assert state.lora.leaf.grad.abs().max() > 0 and np.isfinite(result.metrics["loss:sum"]), result.metrics
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""


@pytest.mark.slow
@pytest.mark.parametrize("targets", [1024, 32_768])
def test_a_long_row_at_a_large_vocabulary_trains_within_bounded_memory(targets: int) -> None:
    """Float32 logits of all would be 0.6 GB and 20 GB, of which four are alive at a time."""
    found = subprocess.run(
        [sys.executable, "-c", _ONE_ROW, str(targets)],
        check=True,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert int(found.stdout) < 3 << 29
