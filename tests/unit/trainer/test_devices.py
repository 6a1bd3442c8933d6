"""Every tensor of a pass is made where the base is, and the host reads none: on a device with shapes alone.

torch refuses most of what mixes the meta device with the CPU, computes nothing there, and has no number to
give to a host that asks for one, for which it would wait for a GPU.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from services.trainer.adapters.lora import experts
from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.core.batch import Row
from services.trainer.core.packing import pack_rows

from .families import describe_family, everything, make_family

META = torch.device("meta")


@pytest.fixture(params=["Llama", "Qwen3Moe"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResidentBase:
    """A bfloat16 base without numbers."""
    monkeypatch.setattr(
        experts, "updates_in_base_dtype", lambda _device: True
    )  # as CUDA's: meta has no other
    # It reads a number back, to see whether positions begin again within a line; they do not.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _positions: None)
    made = ResidentBase(make_family(request.param), describe_family(request.param, tmp_path))
    made.target_scores.to(META, torch.bfloat16)
    made.device, made.dtype = META, torch.bfloat16
    return made


def policy_of(base: ResidentBase, *, rank: int = 4) -> LoraTensors:
    lora = new_lora(base.facts, everything(base.facts, rank=rank))
    return replace(lora, leaf=torch.zeros(lora.layout.size, device=META).requires_grad_())


def rows(count: int) -> list[Row]:
    return [Row(prompt=(3, 4, 5), tokens=(6, 7, 8 + n), logprobs=(), advantage=1.0) for n in range(count)]


@pytest.mark.parametrize("max_length", [0, 64], ids=["alone", "behind one prompt"])
@pytest.mark.parametrize("ranks", [(4,), (4, 4), (4, 2)], ids=["one policy", "two", "two ranks"])
def test_a_pass_stays_on_the_device(base: ResidentBase, max_length: int, ranks: tuple[int, ...]) -> None:
    policies = [policy_of(base, rank=rank) for rank in ranks]
    lines = [
        line
        for number in range(len(ranks))
        for line in pack_rows(rows(2), policy=number, max_length=max_length)
    ]
    scored = base.score(lines, policies)
    assert (scored.logprobs_T.device, scored.logprobs_T.dtype) == (META, torch.float32)
    scored.logprobs_T.sum().backward()
    assert all(policy.leaf.grad.device == META for policy in policies)
