"""What `mint base show` says of a base's layers."""

from dataclasses import replace

from services.standalone.core.base_view import told_layers
from tests.testing.adapters import make_base_facts


def test_layers_rows_and_refused_targets_are_told() -> None:
    base = replace(
        make_base_facts(),
        layer_kinds=("linear_attention", "linear_attention", "sliding_attention"),
        window=512,
        shares_prompts=False,
        refused={"q_proj": "no engine has it"},
    )
    assert told_layers(base) == {
        "layers": "2 linear_attention, 1 sliding_attention; a window of 512 tokens",
        "completions in training": "each behind a copy of its prompt, as layers read a row as a whole: "
        "a group of 8 reads it 8 times",
        "not adapted": "q_proj: no engine has it",
    }
    plain = told_layers(replace(make_base_facts(), shares_prompts=True))
    assert list(plain.values()) == ["full attention", "share one copy of their prompt", "-"]
