"""The modules that `train_attn` and `train_mlp` of a Tinker client select."""

from dataclasses import replace

import pytest

from mint_common.adapters_format.base_facts import BaseFacts
from services.gateway.core.tinker.lora import LoraConfig, lora_of
from tests.testing.adapters import make_base_facts

HYBRID = ("self_attn.q_proj", "linear_attn.in_proj_qkv", "mamba.in_proj", "conv.out_proj", "mlp.up_proj")
ONE_BLOCK = ("mixer.in_proj", "mixer.down_proj", "mixer.q_proj")


def base_of(*modules: str, kinds: tuple[str, ...] = ()) -> BaseFacts:
    return replace(
        make_base_facts(),
        modules=dict.fromkeys(modules, (8, 8)),
        targets=tuple(sorted({name.rpartition(".")[2] for name in modules})),
        layer_kinds=kinds,
    )


def targets(base: BaseFacts, *, attn: bool, mlp: bool) -> set[str]:
    wish = LoraConfig(rank=1, train_attn=attn, train_mlp=mlp)
    return set(lora_of(wish, base, model_id="m").targets)


@pytest.mark.parametrize(
    ("base", "attention"),
    [
        (
            base_of(*(f"model.layers.0.{name}" for name in HYBRID)),
            {"q_proj", "in_proj_qkv", "in_proj", "out_proj"},
        ),
        (
            base_of(
                *(f"model.layers.{layer}.{name}" for layer, name in enumerate(ONE_BLOCK)),
                kinds=("linear_attention", "mlp", "full_attention"),
            ),
            {"in_proj", "q_proj"},
        ),
    ],
)
def test_attention_is_all_that_mixes_tokens(base: BaseFacts, attention: set[str]) -> None:
    assert targets(base, attn=True, mlp=False) == attention
    assert targets(base, attn=False, mlp=True) == set(base.targets) - attention
    assert targets(base, attn=True, mlp=True) == set(base.targets)
