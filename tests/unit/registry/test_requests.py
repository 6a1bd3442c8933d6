"""LoRA shapes, keys and evaluation ids."""

import math
from dataclasses import replace

import pytest

from mint_common.errors import InvalidField
from mint_common.ids import PolicyId, TenantId
from mint_common.lora import plan_lora
from services.gateway.core.tinker.lora import LoraConfig, lora_of
from services.registry.core.evaluations import evaluation_id
from services.registry.core.keys import hash_key, stored_key
from tests.testing.adapters import make_base_facts

FACTS = make_base_facts(max_rank=8)


def test_targets_default_to_all_of_the_base() -> None:
    lora = plan_lora(FACTS, rank=8, alpha=16.0, targets=None, seed=1)
    assert lora.targets == FACTS.targets
    assert plan_lora(FACTS, rank=8).alpha == 16.0
    assert plan_lora(FACTS, rank=1, alpha=1.0, targets=["q_proj", "q_proj"], seed=0).targets == ("q_proj",)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("lora.rank", {"rank": 0}),
        ("lora.rank", {"rank": 9}),
        ("lora.alpha", {"alpha": 0.0}),
        ("lora.alpha", {"alpha": -1.0}),
        ("lora.alpha", {"alpha": math.nan}),
        ("lora.alpha", {"alpha": math.inf}),
        ("lora.seed", {"seed": -1}),
        ("lora.seed", {"seed": 2**53}),
        ("lora.targets", {"targets": []}),
        ("lora.targets", {"targets": ["q_proj", "lm_head"]}),
    ],
)
def test_shape_beyond_the_base_names_its_field(field: str, change: dict[str, object]) -> None:
    wish = {"rank": 4, "alpha": 8.0, "targets": None, "seed": 1, **change}
    with pytest.raises(InvalidField) as refused:
        plan_lora(FACTS, **wish)  # type: ignore[arg-type]  # fields by name
    assert refused.value.field == field


def test_a_projection_that_engines_fold_away_is_no_target() -> None:
    attention = "model.layers.0.self_attn."
    modules = {f"{attention}kv_a_proj_with_mqa": (6, 4), f"{attention}kv_b_proj": (4, 8)}
    latent = replace(FACTS, targets=("kv_a_proj_with_mqa", "kv_b_proj"), modules=modules)
    assert plan_lora(latent, rank=8).targets == ("kv_a_proj_with_mqa",)
    with pytest.raises(InvalidField, match="; kv_b_proj: engines fold it into other products") as refused:
        plan_lora(latent, rank=8, targets=["kv_a_proj_with_mqa", "kv_b_proj"])
    assert refused.value.field == "lora.targets"
    assert lora_of(LoraConfig(rank=8), latent, model_id="run").targets == ("kv_a_proj_with_mqa",)


def test_what_no_engine_serves_is_refused_with_the_reason() -> None:
    scout = replace(FACTS, architecture="Llama4ForCausalLM", refused={"down_proj": "the probe differs"})
    for target, reason in (("q_proj", "vLLM reorders its rows"), ("down_proj", "the probe differs")):
        with pytest.raises(InvalidField, match=f"; {target}: {reason}"):
            plan_lora(scout, rank=4, targets=[target])


def test_only_the_beginning_and_the_hash_of_a_key_are_kept() -> None:
    stored = stored_key("tml-abcdefgh", key_id="key_1", tenant_id=TenantId("t"), name="ci", now=1.0)
    assert stored.shown == "tml-abcd"
    assert stored.key_hash == hash_key("tml-abcdefgh")
    assert "efgh" not in repr(stored)
    assert len(hash_key("\ud800")) == 32


def test_every_part_of_a_score_makes_its_id() -> None:
    said = {"number": 1, "suite": "s", "metric": "m", "value": 0.5, "n": 10, "actor": "a"}
    changes = [{"number": 2}, {"suite": "m"}, {"metric": "s"}, {"value": 0.25}, {"n": 11}, {"actor": "b"}]
    ids = [evaluation_id(PolicyId("p"), **{**said, **change}) for change in [{}, {}, *changes]]  # type: ignore[arg-type]
    assert ids[0] == ids[1]
    assert len(set(ids)) == len(changes) + 1
