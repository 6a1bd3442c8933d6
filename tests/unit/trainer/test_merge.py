"""A merged checkpoint answers as the base with the adapter; transformers reads it and says so."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from mint_common.adapters_format import WEIGHTS_FILE, BaseFacts, build_adapter, read_base_facts
from mint_common.adapters_format.merge import merge_adapter
from mint_common.errors import AlreadyExists, NotFound
from mint_common.ids import PolicyId
from services.trainer.adapters.lora.tensors import LoraTensors, folded_arrays, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase

from .families import FAMILIES, describe_family, everything, make_family
from .plain_peft import row_logprobs
from .test_families import lines_of, ordered, rows_of
from .test_lora import with_random_b


def export(facts: BaseFacts, tensors: LoraTensors, folder: Path) -> Path:
    """Write an adapter folder as the trainer exports it."""
    files = build_adapter(
        facts=facts,
        policy_id=PolicyId("policy"),
        step=1,
        parent=None,
        rank=tensors.rank,
        tensors=folded_arrays(tensors),
    )
    folder.mkdir()
    for name, data in files.files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_the_merged_model_answers_as_the_policy(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path / "base")
    tensors = with_random_b(new_lora(facts, everything(facts)), std=0.05)
    adapter = export(facts, tensors, tmp_path / "adapter")
    told: list[tuple[int, int]] = []
    size_bytes = merge_adapter(
        facts, tmp_path / "base", adapter, tmp_path / "out", progress=lambda *news: told.append(news)
    )
    assert told[-1] == (size_bytes, size_bytes)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    base = ResidentBase(make_family(name), facts)
    lines = lines_of(base, rows_of(1))
    with torch.no_grad():
        ours = base.score(lines, [tensors]).logprobs_T
        theirs = torch.cat([row_logprobs(merged, row) for row in ordered(lines)])
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)


def test_the_merged_tiny_base_answers_as_peft_does(tiny_folder: Path, tmp_path: Path) -> None:
    facts = read_base_facts(tiny_folder)
    adapter = export(facts, with_random_b(new_lora(facts, everything(facts)), std=0.05), tmp_path / "adapter")
    merge_adapter(facts, tiny_folder, adapter, tmp_path / "out")
    ids = torch.randint(3, 264, (2, 40), generator=torch.Generator().manual_seed(0))
    plain = AutoModelForCausalLM.from_pretrained(tiny_folder)
    with torch.no_grad():
        before = plain(ids).logits
        theirs = PeftModel.from_pretrained(plain, adapter)(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out")(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)
    assert (before - theirs).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    facts = describe_family("Llama", tmp_path / "wide")
    make_family("Llama").to(dtype).save_pretrained(tmp_path / "base")
    tensors = with_random_b(new_lora(facts, everything(facts)), std=0.05)
    adapter = export(facts, tensors, tmp_path / "adapter")
    merge_adapter(facts, tmp_path / "base", adapter, tmp_path / "out")
    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    a, b = (load_file(adapter / WEIGHTS_FILE)[f"base_model.model.{name[:-7]}.lora_{h}.weight"] for h in "AB")
    assert after[name].dtype is dtype
    assert torch.equal(after[name], (before[name].float() + b @ a).to(dtype))
    assert torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def test_a_base_without_a_target_leaves_nothing_behind(tmp_path: Path) -> None:
    facts = describe_family("Llama", tmp_path / "base")
    adapter = export(facts, new_lora(facts, everything(facts)), tmp_path / "adapter")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound, match="weights of the base"):
        merge_adapter(facts, tmp_path / "empty", adapter, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base", "empty"]


def test_a_folder_that_is_there_is_not_written_to(tmp_path: Path) -> None:
    facts = describe_family("Llama", tmp_path / "base")
    with pytest.raises(AlreadyExists):
        merge_adapter(facts, tmp_path / "base", tmp_path / "adapter", tmp_path / "base")
