"""Our LoRA linears against PEFT: outputs, gradients, initialisation, exports."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from mint_common.adapters_format import build_adapter
from mint_common.events import LoraSpec
from mint_common.ids import PolicyId
from mint_common.records import WaveRecord
from services.trainer.adapters.lora.tensors import LoraTensors, folded_arrays, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.core.batch import Row, build_sft_batch
from services.trainer.core.packing import PackedSequence, pack_rows
from services.trainer.core.refusals import LoraInvalid

from .plain_peft import gradients_of, peft_twin, row_logprobs

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]


def with_random_b(tensors: LoraTensors, *, std: float = 0.1) -> LoraTensors:
    """Fill B, so that every gradient is alive."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, view in tensors.named():
            if ".lora_B." in name:
                view.normal_(std=std, generator=generator)
    return tensors


def lines_of(rows: Sequence[Row], *, max_length: int = 0) -> list[PackedSequence]:
    return pack_rows(rows, policy=0, max_length=max_length)


def rows_of(record: WaveRecord) -> list[Row]:
    return [row for line in lines_of(build_sft_batch(record).rows) for row in line.rows]


@pytest.mark.parametrize("max_length", [0, 16, 64], ids=["alone", "some together", "behind one prompt"])
def test_outputs_and_gradients_equal_peft(
    max_length: int,
    make_model: MakeModel,
    make_base: MakeBase,
    lora: LoraSpec,
    make_record: Callable[..., WaveRecord],
) -> None:
    base = make_base(make_model())
    tensors = with_random_b(new_lora(base.facts, lora))
    twin = peft_twin(make_model(), lora, tensors)
    rows = rows_of(make_record())
    ours = base.score(lines_of(rows, max_length=max_length), [tensors]).logprobs_T
    theirs = torch.cat([row_logprobs(twin, row) for row in rows])
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    ours.mean().backward()
    theirs.mean().backward()
    grads = {
        name.replace(".default", ""): parameter.grad
        for name, parameter in twin.named_parameters()
        if parameter.requires_grad
    }
    assert grads.keys() == {name for name, _ in tensors.named()}
    for name, gradient in gradients_of(tensors):
        assert gradient.abs().max() > 0, name
        assert torch.allclose(gradient, grads[name], atol=1e-5, rtol=0), name


def test_base_without_a_policy_is_bitwise_untouched(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    ids = torch.arange(12)[None]
    model = make_model()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        base = make_base(model)
        rows = [Row(prompt=tuple(range(6)), tokens=tuple(range(6, 13)), logprobs=(), advantage=0.0)]
        bare = base.score(lines_of(rows)).logprobs_T
        assert not torch.equal(
            base.score(lines_of(rows), [with_random_b(new_lora(base.facts, lora))]).logprobs_T, bare
        )
        assert torch.equal(base.score(lines_of(rows)).logprobs_T, bare)
        assert torch.equal(before, model(input_ids=ids).logits)


def test_a_fresh_policy_equals_the_base(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    base = make_base(make_model())
    rows = [Row(prompt=(1, 2), tokens=(3, 4), logprobs=(), advantage=0.0)]
    with torch.no_grad():
        bare = base.score(lines_of(rows)).logprobs_T
        assert torch.equal(base.score(lines_of(rows), [new_lora(base.facts, lora)]).logprobs_T, bare)


def test_a_row_does_not_depend_on_what_it_is_padded_with(make_model: MakeModel, make_base: MakeBase) -> None:
    base = make_base(make_model())
    short = Row(prompt=(5, 6), tokens=(7,), logprobs=(), advantage=0.0)
    long = Row(prompt=(1,) * 20, tokens=(2,) * 9, logprobs=(), advantage=0.0)
    with torch.no_grad():
        alone, together = (base.score(lines_of(rows)).logprobs_T[-1:] for rows in ([short], [long, short]))
    assert torch.allclose(alone, together, atol=1e-5, rtol=0)


def test_initialisation_is_peft_s_and_follows_the_seed(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    facts = make_base(make_model()).facts
    first, again = new_lora(facts, lora), new_lora(facts, lora)
    other = new_lora(facts, replace(lora, seed=8))
    assert torch.equal(first.leaf, again.leaf)
    for (name, view), (_, strange) in zip(first.named(), other.named(), strict=True):
        if ".lora_B." in name:
            assert not view.any()
            continue
        # kaiming_uniform_(a=sqrt(5)) has the bound 1 / sqrt(fan in) and reaches for it.
        bound = 1 / math.sqrt(view.shape[-1])
        assert 0.8 * bound < float(view.abs().max()) <= bound
        assert not torch.equal(view, strange)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rank": 17}, "rank"),
        ({"rank": 0}, "rank"),
        ({"targets": ("lm_head",)}, "targets.*or the last two parts"),
        ({"targets": ()}, "targets"),
    ],
)
def test_a_spec_that_does_not_fit_the_base_is_refused(
    changes: dict[str, int], field: str, make_base: MakeBase, make_model: MakeModel, lora: LoraSpec
) -> None:
    facts = make_base(make_model()).facts
    with pytest.raises(LoraInvalid, match=field):
        new_lora(facts, replace(lora, **changes))


def test_only_the_targets_of_the_spec_carry_lora(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    facts = make_base(make_model()).facts
    tensors = new_lora(facts, replace(lora, targets=("o_proj", "q_proj")))
    assert {name.split(".")[-3] for name, _ in tensors.named()} == {"o_proj", "q_proj"}


@pytest.mark.parametrize("alpha", [8.0, 5.0])
def test_an_export_served_by_peft_merged_answers_as_the_trainer(
    tiny_folder: Path, tmp_path: Path, lora: LoraSpec, alpha: float, make_record: Callable[..., WaveRecord]
) -> None:
    base = load_base(tiny_folder)
    tensors = with_random_b(new_lora(base.facts, replace(lora, alpha=alpha)))
    files = build_adapter(
        facts=base.facts,
        policy_id=PolicyId("policy_a"),
        step=1,
        parent=None,
        rank=lora.rank,
        tensors=folded_arrays(tensors),
    )
    for name, data in files.files.items():
        (tmp_path / name).write_bytes(data)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(model, tmp_path).merge_and_unload()
    rows = rows_of(make_record(vocab_size=264))
    with torch.no_grad():
        ours = base.score(lines_of(rows), [tensors]).logprobs_T
        theirs = torch.cat([row_logprobs(merged, row) for row in rows])
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)
