"""Interpolations that make no sense are refused by the name of the field, before anything is made."""

import math

import msgspec
import pytest

from mint_common.claims import Claim
from mint_common.errors import InvalidField
from mint_common.events import LoraSpec
from mint_common.ids import BaseName, PolicyId, TenantId
from mint_common.training import CheckpointRecord
from services.gateway.core.tinker.mixtures import (
    InterpolateBody,
    check_alike,
    metadata_of,
    mixture_answer,
    output_name,
    read_sources,
)

PATH = f"tinker://ses_{'a' * 26}:train:0/sampler_weights/one"
RECORD = CheckpointRecord(
    policy_id=PolicyId("pol"),
    tenant_id=TenantId("ten"),
    kind="sampler",
    name="one",
    base=BaseName("tiny"),
    lora=LoraSpec(rank=8, alpha=32.0, targets=("q_proj",), seed=0),
    step=1,
    claim=Claim(uri="u", sha256=64 * "0", size_bytes=1),
    revision=None,
    created_at=0.0,
    expires_at=None,
    is_public=False,
    metadata={},
)


def body(**changed: object) -> InterpolateBody:
    fields = {"source_paths": [PATH, PATH.replace("one", "two")], "coefficients": [0.5, 0.5], **changed}
    return msgspec.convert(fields, InterpolateBody)


def test_what_is_mixed_is_read():
    assert [path.name for path in read_sources(body())] == ["one", "two"]
    assert [output_name(body()), output_name(body(output_path="mine"))] == ["interpolated", "mine"]
    assert len(read_sources(body(coefficients=[1.5, -0.5]))) == 2


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"source_paths": [PATH], "coefficients": [1.0]}, "source_paths"),
        ({"source_paths": [PATH] * 17, "coefficients": [1 / 17] * 17}, "source_paths"),
        ({"source_paths": [PATH, "weights/x"]}, "source_paths[1]"),
        ({"coefficients": [1.0]}, "coefficients"),
        ({"coefficients": [0.5, 0.6]}, "coefficients"),
        ({"coefficients": [math.nan, 0.5]}, "coefficients[0]"),
        ({"coefficients": [0.5, math.inf]}, "coefficients[1]"),
        ({"coefficients": [2001.0, -2000.0]}, "coefficients[0]"),
        ({"output_checkpoint_type": "training"}, "output_checkpoint_type"),
    ],
)
def test_a_bad_mixture_is_refused(changed: dict[str, object], field: str):
    with pytest.raises(InvalidField) as refused:
        read_sources(body(**changed))
    assert refused.value.field == field


def test_an_output_is_a_bare_name():
    with pytest.raises(InvalidField, match="output_path"):
        output_name(body(output_path=PATH))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"base": BaseName("other")}, "base"),
        ({"lora": LoraSpec(rank=4, alpha=32.0, targets=("q_proj",), seed=0)}, "rank 4"),
        ({"lora": LoraSpec(rank=8, alpha=16.0, targets=("q_proj",), seed=0)}, "alpha 16"),
        ({"lora": LoraSpec(rank=8, alpha=32.0, targets=("k_proj",), seed=0)}, "k_proj"),
    ],
)
def test_only_equal_shapes_are_mixed(changed: dict[str, object], what: str):
    odd = msgspec.structs.replace(RECORD, **changed)
    with pytest.raises(InvalidField, match=what) as refused:
        check_alike([RECORD, RECORD, odd])
    assert refused.value.field == "source_paths[2]"
    other_seed = LoraSpec(rank=8, alpha=32.0, targets=("q_proj",), seed=5)
    check_alike([RECORD, msgspec.structs.replace(RECORD, lora=other_seed)])


def test_the_answer_repeats_what_was_asked_for():
    wish = body(coefficients=[0.25, 0.75])
    record = msgspec.structs.replace(RECORD, metadata=metadata_of(wish))
    assert mixture_answer("p", record) == {
        "type": "mint_interpolate_checkpoints",
        "path": "p",
        "checkpoint_type": "sampler",
        "source_paths": wish.source_paths,
        "coefficients": [0.25, 0.75],
        "has_rank_shards": False,
    }
