"""A base and its policies on the device: as on the CPU, as alone, and the same bits after a swap."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model.placing import place
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.policies.tiers import PolicyTiers, ResidentPolicy
from services.trainer.adapters.states.training_state import (
    MOMENTS,
    ParkedState,
    TrainingState,
    new_state,
    park_state,
    resume_state,
)
from services.trainer.core.packing import pack_rows
from services.trainer.core.placement import BaseDType, Checkpointing
from services.trainer.core.ranks import ALONE
from tests.unit.trainer.families import describe_family, everything, make_family
from tests.unit.trainer.managed import StepSettings, Work, step_policies
from tests.unit.trainer.test_dtypes import GRADIENT_NORM, LOGPROBS, RAGGED, learn, rows_of
from tests.unit.trainer.test_lora import with_random_b
from tests.unit.trainer.test_routing import batch_of, sampled_rows

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

SFT = StepSettings(algorithm="sft", learning_rate=1e-3, kl_coefficient=0.0, clip_norm=1.0)
BOUNDS = {"float32": (1e-4, 1e-4), "bfloat16": (LOGPROBS, GRADIENT_NORM)}
"""Of log-probabilities, and of whole gradients as shares of their norms, against float32 on the CPU."""
DTYPES: list[BaseDType] = ["float32", "bfloat16"]


def base_on(
    device: torch.device, folder: Path, dtype: BaseDType, *, checkpointing: Checkpointing = "off"
) -> ResidentBase:
    """Load a base as the trainer does, by its settings."""
    placement = place(
        device=device.type, dtype=dtype, checkpointing=checkpointing, memory_share=None, process=ALONE
    )
    return load_base(folder, placement)


def policies_of(base: ResidentBase, count: int) -> list[LoraTensors]:
    """Return policies whose gradients are all alive, where the base is."""
    made = [
        with_random_b(new_lora(base.facts, everything(base.facts, seed=seed)), std=0.05)
        for seed in range(count)
    ]
    return [
        replace(lora, leaf=lora.leaf.detach().to(base.device, copy=True).requires_grad_()) for lora in made
    ]


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return how far a gradient is from another, as a share of its norm."""
    one, other = one.cpu(), other.cpu()
    return float((one - other).norm() / other.norm())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small base on disk."""
    made = tmp_path / "base"
    save_family("Qwen3", made)
    return made


def save_family(name: str, folder: Path) -> None:
    """Write a family's small base and its facts."""
    import msgspec

    from mint_common.adapters_format import BASE_FILE

    facts = describe_family(name, folder)
    (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_length", [0, 64], ids=["alone", "behind one prompt"])
def test_scores_and_gradients_are_near_the_cpus(
    device: torch.device, folder: Path, dtype: BaseDType, max_length: int
) -> None:
    lines = pack_rows(rows_of(0, 4), policy=0, max_length=max_length)
    found = []
    for where, kind in ((torch.device("cpu"), "float32"), (device, dtype)):
        base = base_on(where, folder, kind)
        (policy,) = policies_of(base, 1)
        found.append((learn(base, lines, [policy]).cpu(), policy.leaf.grad))
    (cpu_T, cpu), (ours_T, ours) = found  # noqa: N806  # T = target tokens
    assert ours.device == device
    logprobs, gradient = BOUNDS[dtype]
    assert torch.allclose(ours_T, cpu_T, atol=logprobs, rtol=0)
    assert distance(ours, cpu) < gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Qwen3", "Qwen3Moe"])
@pytest.mark.parametrize("counts", [(2, 2), RAGGED], ids=["equally many", "ragged"])
def test_a_policy_learns_beside_others_as_alone(
    device: torch.device, tmp_path: Path, dtype: BaseDType, name: str, counts: tuple[int, ...]
) -> None:
    """Routes are replayed where there are experts: they would differ by rounding."""
    save_family(name, tmp_path / name)
    base = base_on(device, tmp_path / name, dtype)
    layers = len(base.facts.experts)
    batches = [
        sampled_rows(make_family(name), layers=layers, seed=seed)[:count] if layers else rows_of(seed, count)
        for seed, count in enumerate(counts)
    ]
    together, alone = policies_of(base, len(counts)), policies_of(base, len(counts))
    lines = [
        line for number, rows in enumerate(batches) for line in pack_rows(rows, policy=number, max_length=0)
    ]
    whole = learn(base, lines, together)
    parts = [
        learn(base, pack_rows(rows, policy=0, max_length=0), [policy])
        for rows, policy in zip(batches, alone, strict=True)
    ]
    logprobs, gradient = BOUNDS[dtype]
    assert torch.allclose(whole, torch.cat(parts), atol=logprobs, rtol=0)
    for one, other in zip(together, alone, strict=True):
        assert distance(one.leaf.grad, other.leaf.grad) < gradient


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_computed_again_give_the_same_gradients(
    device: torch.device, folder: Path, dtype: BaseDType
) -> None:
    """On a GPU backward kernels may add in another order each time."""
    lines = pack_rows(rows_of(0, 4), policy=0, max_length=64)
    gradients = []
    for checkpointing in ("off", "on"):
        base = base_on(device, folder, dtype, checkpointing=checkpointing)
        (policy,) = policies_of(base, 1)
        learn(base, lines, [policy])
        gradients.append(policy.leaf.grad)
    assert distance(*gradients) < (1e-5 if dtype == "float32" else GRADIENT_NORM / 5)


def test_a_swapped_policy_comes_back_bit_for_bit(device: torch.device, folder: Path) -> None:
    base = base_on(device, folder, "bfloat16")
    state = resume_state(park_state(new_state(base.facts, everything(base.facts))), base.device)
    for _ in range(2):
        (metrics,) = step_policies(
            base, [Work(state=state, batch=batch_of(rows_of(0, 4)), settings=SFT)], max_tokens=256
        )
        assert isinstance(metrics, dict)
    before = numbers(state)
    resident = ResidentPolicy(state)
    tiers = PolicyTiers(device_policies=1, host_policies=1, device=base.device)
    tiers.swap_out(resident)
    assert isinstance(resident.state, ParkedState)
    assert resident.state.buffer.device.type == "cpu"
    assert resident.state.buffer.is_pinned() == (device.type == "cuda")
    after = tiers.swap_in(resident)
    assert after.lora.leaf.device == device
    assert after.step == 2
    for name, one in numbers(after).items():
        assert torch.equal(one, before[name]), name


def numbers(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return what a state goes on with, copied to the CPU."""
    assert set(MOMENTS) <= state.moments.keys()
    return {
        name: tensor.detach().cpu().clone()
        for name, tensor in {"leaf": state.lora.leaf, **state.moments}.items()
    }
