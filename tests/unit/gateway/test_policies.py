"""A policy request becomes a complete LoRA shape, or an error that names the field."""

import math

import pytest

from mint_common.errors import InvalidField
from services.gateway.core.mint.policies import LoraRequest, check_name, plan_lora

TARGETS = ("q_proj", "k_proj", "v_proj")


def test_defaults_are_all_targets_and_twice_the_rank():
    lora = plan_lora(LoraRequest(rank=8), max_rank=16, targets=TARGETS)
    assert (lora.rank, lora.alpha, lora.targets, lora.seed) == (8, 16.0, tuple(sorted(TARGETS)), 0)


def test_targets_are_sorted_and_deduplicated():
    request = LoraRequest(rank=8, targets=("v_proj", "q_proj", "v_proj"))
    assert plan_lora(request, max_rank=16, targets=TARGETS).targets == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (LoraRequest(rank=17), "lora.rank"),
        (LoraRequest(rank=0), "lora.rank"),
        (LoraRequest(rank=8, alpha=0.0), "lora.alpha"),
        (LoraRequest(rank=8, alpha=-1.0), "lora.alpha"),
        (LoraRequest(rank=8, alpha=math.nan), "lora.alpha"),
        (LoraRequest(rank=8, alpha=math.inf), "lora.alpha"),
        (LoraRequest(rank=8, targets=()), "lora.targets"),
        (LoraRequest(rank=8, targets=("q_proj", "lm_head")), "lora.targets"),
        (LoraRequest(rank=8, seed=-1), "lora.seed"),
    ],
)
def test_what_the_base_cannot_hold_is_refused_by_name(request_, field):
    with pytest.raises(InvalidField) as refused:
        plan_lora(request_, max_rank=16, targets=TARGETS)
    assert refused.value.field == field


@pytest.mark.parametrize("name", ["", "Upper", "a@b", "a/b", "-a", "a" * 64, "a\n"])
def test_a_name_that_cannot_be_part_of_a_model_id_is_refused(name):
    with pytest.raises(InvalidField):
        check_name("name", name)


def test_plain_names_pass():
    for name in ("a", "9", "counter.v1_b-c", "a" * 63):
        check_name("name", name)
