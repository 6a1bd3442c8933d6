"""Patterns of module names that tenants write: what they match, and what they may cost."""

import json

import pytest

from mint_common.adapters_format.patterns import NamePatterns
from mint_common.adapters_format.peft_config import read_peft_config
from mint_common.adapters_format.refusal import AdapterInvalid

PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "layers.1.mlp"]}


def refused(**changes: object) -> str:
    with pytest.raises(AdapterInvalid) as found:
        read_peft_config(json.dumps(PLAIN | changes).encode())
    return str(found.value)


def test_expressions_are_counted_before_one_is_compiled() -> None:
    patterns = dict.fromkeys(["(", *(f"a{number}.*" for number in range(50_000))], 4)
    assert "50001 regular expressions, the limit is 16" in refused(rank_pattern=patterns)


@pytest.mark.parametrize(
    "pattern", ["(.{0,99}){99}", "((a{9}){9}){9}", ".{17}", ".{17,}", "a{" + "9" * 190 + "}"]
)
def test_an_expression_that_repeats_much_is_refused(pattern: str) -> None:
    assert "write it out" in refused(alpha_pattern={pattern: 2.0})


def test_a_short_repetition_is_read() -> None:
    ranks = NamePatterns.of({r"layers\.\d{1,2}\.q_proj": 4}, field="rank_pattern")
    assert [ranks.find(f"model.layers.{layer}.q_proj", 8) for layer in ("7", "17", "170")] == [4, 4, 8]


@pytest.mark.parametrize("alpha", [10**400, float("inf"), float("nan"), True, "16"])
def test_an_alpha_that_is_no_number_is_refused(alpha: object) -> None:
    assert "needed two numbers" in refused(lora_alpha=alpha)
    assert "no map of names to a number" in refused(alpha_pattern={"q_proj": alpha})


def test_a_module_is_required_by_its_name_or_an_end_after_a_dot() -> None:
    lora = read_peft_config(json.dumps(PLAIN).encode())
    names = (
        "q_proj",
        "model.layers.0.q_proj",
        "model.layers.1.mlp",
        "model.layers.0.xq_proj",
        "layers.11.mlp",
    )
    assert [lora.requires(name) for name in names] == [True, True, True, False, False]
