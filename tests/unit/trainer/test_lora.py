"""Our LoRA linears against PEFT: outputs, gradients, initialisation, exports."""

import math
from collections.abc import Callable
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
from services.trainer.adapters.lora import LoraTensors, folded_arrays, new_lora
from services.trainer.adapters.resident_base import ResidentBase, load_base
from services.trainer.core.batch import Row, build_sft_batch
from services.trainer.core.refusals import LoraInvalid

from .plain_peft import peft_twin, row_logprobs

MakeModel = Callable[[], PreTrainedModel]
MakeBase = Callable[[PreTrainedModel], ResidentBase]


def with_random_b(tensors: LoraTensors, *, std: float = 0.1) -> LoraTensors:
    """Fill B, so that every gradient is alive."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, b in tensors.pairs.values():
            b.normal_(std=std, generator=generator)
    return tensors


def rows_of(record: WaveRecord) -> tuple[Row, ...]:
    return build_sft_batch(record).rows


def test_outputs_and_gradients_equal_peft(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec, make_record: Callable[..., WaveRecord]
) -> None:
    base = make_base(make_model())
    tensors = with_random_b(new_lora(base.facts, lora))
    twin = peft_twin(make_model(), lora, tensors)
    rows = rows_of(make_record())
    with base.applied(tensors):
        ours = base.logprobs(rows)
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
    for name, leaf in tensors.named():
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0, name
        assert torch.allclose(leaf.grad, grads[name], atol=1e-5, rtol=0), name


def test_base_without_a_policy_is_bitwise_untouched(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    ids = torch.arange(12)[None]
    model = make_model()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        base = make_base(model)
        with base.applied(with_random_b(new_lora(base.facts, lora))):
            assert not torch.equal(before, model(input_ids=ids).logits)
        assert torch.equal(before, model(input_ids=ids).logits)


def test_a_fresh_policy_equals_the_base(make_model: MakeModel, make_base: MakeBase, lora: LoraSpec) -> None:
    base = make_base(make_model())
    rows = [Row(prompt=(1, 2), tokens=(3, 4), logprobs=(), advantage=0.0)]
    with torch.no_grad():
        bare = base.logprobs(rows)
        with base.applied(new_lora(base.facts, lora)):
            assert torch.equal(base.logprobs(rows), bare)


def test_a_row_does_not_depend_on_what_it_is_padded_with(make_model: MakeModel, make_base: MakeBase) -> None:
    base = make_base(make_model())
    short = Row(prompt=(5, 6), tokens=(7,), logprobs=(), advantage=0.0)
    long = Row(prompt=(1,) * 20, tokens=(2,) * 9, logprobs=(), advantage=0.0)
    with torch.no_grad():
        alone, together = base.logprobs([short]), base.logprobs([long, short])[-1:]
    assert torch.allclose(alone, together, atol=1e-5, rtol=0)


def test_initialisation_is_peft_s_and_follows_the_seed(
    make_model: MakeModel, make_base: MakeBase, lora: LoraSpec
) -> None:
    facts = make_base(make_model()).facts
    first, again = new_lora(facts, lora), new_lora(facts, lora)
    other = new_lora(facts, replace(lora, seed=8))
    for module, (a, b) in first.pairs.items():
        width_in = facts.modules[module][0]
        # kaiming_uniform_(a=sqrt(5)) has the bound 1 / sqrt(fan in) and reaches for it.
        assert 0.8 / math.sqrt(width_in) < float(a.detach().abs().max()) <= 1 / math.sqrt(width_in)
        assert not b.any()
        assert torch.equal(a, again.pairs[module][0])
        assert not torch.equal(a, other.pairs[module][0])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rank": 17}, "rank"),
        ({"rank": 0}, "rank"),
        ({"targets": ("lm_head",)}, "targets"),
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
    assert {module.rpartition(".")[2] for module in tensors.pairs} == {"o_proj", "q_proj"}


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
    with torch.no_grad(), base.applied(tensors):
        ours = base.logprobs(rows)
        theirs = torch.cat([row_logprobs(merged, row) for row in rows])
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)
