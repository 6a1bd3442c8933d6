"""Quantized bases: kept as they are for serving, refused for training, expanded on request."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import save_tiny
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from mint_common.adapters_format import BaseFacts, read_base_facts
from mint_common.errors import InvalidField
from mint_common.lora import check_trainable
from services.standalone.adapters import base_adding
from services.standalone.adapters.bases import add_base, find_base, tiny_folder
from services.standalone.core.refusals import NoRoomError

pytestmark = pytest.mark.integration
BLOCK = 64
FP8 = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "weight_block_size": [BLOCK, BLOCK],
}
FLOAT8 = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
            "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
        }
    },
}


def make_quantized(folder: Path, stated: dict[str, object]) -> dict[str, torch.Tensor]:
    """Make the tiny base quantized to 8-bit floats, and return what its linear weights stand for."""
    shutil.copytree(tiny_folder(), folder)
    (folder / "mint_base.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "dtype": "bfloat16", "quantization_config": stated})
    )
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            stored[name] = tensor.to(torch.bfloat16)
            continue
        blocked = stated["quant_method"] == "fp8"
        scale = _block_scales(tensor) if blocked else tensor.abs().amax(1, keepdim=True) / 448
        whole = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1) if blocked else scale
        stored[name] = (tensor / whole).to(torch.float8_e4m3fn)
        stored[f"{name}_scale{'_inv' if blocked else ''}"] = scale
        meant[name] = stored[name].float() * whole
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return meant


def _block_scales(tensor: torch.Tensor) -> torch.Tensor:
    rows, columns = tensor.shape
    blocks = tensor.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return blocks.abs().amax((1, 3)) / 448


def add(
    tmp_path: Path, source: Path, *, told: list[str] | None = None, dequantize: bool = False
) -> BaseFacts:
    """Add a folder as the base `small`."""
    report = (told if told is not None else []).append
    place = tmp_path / "bases"
    return add_base(place, str(source), name="small", max_rank=8, report=report, dequantize=dequantize)


@pytest.mark.parametrize("stated", [FP8, FLOAT8], ids=["fp8", "compressed-tensors"])
def test_a_quantized_base_is_kept_for_serving_and_refused_for_training(
    tmp_path: Path, stated: dict[str, object]
) -> None:
    make_quantized(tmp_path / "model", stated)
    told: list[str] = []
    facts = add(tmp_path, tmp_path / "model", told=told)
    assert facts.quantization == stated["quant_method"]
    assert facts.modules == read_base_facts(tiny_folder()).modules
    assert facts.norms == {}
    assert any("served where vLLM serves it, and not trained; see --dequantize" in line for line in told)
    assert not find_base(tmp_path / "bases", "small").trainable
    with pytest.raises(InvalidField, match=r"only served: train over the model that it was made from"):
        check_trainable(facts, field="policy")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("stated", [FP8, FLOAT8], ids=["fp8", "compressed-tensors"])
def test_a_copy_in_bfloat16_has_the_values_that_the_quantized_weights_stand_for(
    tmp_path: Path, stated: dict[str, object]
) -> None:
    meant = make_quantized(tmp_path / "model", stated)
    facts = add(tmp_path, tmp_path / "model", dequantize=True)
    assert facts.quantization == ""
    assert facts.modules == read_base_facts(tiny_folder()).modules
    check_trainable(facts, field="policy")
    place = tmp_path / "bases/small"
    assert "quantization_config" not in json.loads((place / "config.json").read_text())
    assert (place / "chat_template.jinja").is_file()
    written = load_file(place / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    for name, tensor in meant.items():
        torch.testing.assert_close(written[name].float(), tensor, rtol=2**-7, atol=0)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (None, "the base is not quantized"),
        (
            {"quant_method": "awq", "bits": 4},
            "awq cannot be expanded on a CPU, only compressed-tensors, fp8, mxfp4",
        ),
        ({"quant_method": "bitsandbytes"}, "quantized by bitsandbytes"),
    ],
)
def test_what_cannot_be_expanded_is_refused_by_name(
    tmp_path: Path, stated: dict[str, object] | None, problem: str
) -> None:
    shutil.copytree(tiny_folder(), tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    with pytest.raises(InvalidField, match=problem):
        add(tmp_path, tmp_path / "model", dequantize=True)
    assert not (tmp_path / "bases").exists()


def test_memory_too_small_for_the_copy_is_told_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_quantized(tmp_path / "model", FP8)
    seen = base_adding.psutil.virtual_memory()._replace(available=100_000)
    monkeypatch.setattr(base_adding.psutil, "virtual_memory", lambda: seen)
    with pytest.raises(NoRoomError, match="needs 954 kB of memory, and this machine has 100 kB available"):
        add(tmp_path, tmp_path / "model", dequantize=True)


FOUR_BITS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def test_the_four_bit_experts_of_gpt_oss_are_expanded_exactly(tmp_path: Path) -> None:
    source = save_tiny(tmp_path / "model", "gpt_oss")
    tensors = load_file(source / "model.safetensors")
    meant: dict[str, torch.Tensor] = {}
    random = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        count, inputs, outputs = tensors.pop(name).shape
        numbers = torch.randint(0, 16, (count, outputs, inputs // 32, 32), generator=random)
        scales = torch.randint(118, 126, (count, outputs, inputs // 32), generator=random)
        tensors[f"{name}_blocks"] = (numbers[..., 0::2] | numbers[..., 1::2] << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = scales.to(torch.uint8)
        rows = FOUR_BITS[numbers] * torch.exp2(scales.float() - 127)[..., None]
        meant[name] = rows.reshape(count, outputs, inputs).transpose(1, 2)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(
        json.dumps({**config, "dtype": "bfloat16", "quantization_config": {"quant_method": "mxfp4"}})
    )
    kept = add_base(tmp_path / "kept", str(source), name="small", max_rank=8, report=str)
    assert kept.quantization == "mxfp4"
    facts = add(tmp_path, source, dequantize=True)
    written = load_file(tmp_path / "bases/small/model.safetensors")
    assert all(torch.equal(written[name].float(), weight) for name, weight in meant.items())
    assert (facts.quantization, facts.experts) == ("", kept.experts)
