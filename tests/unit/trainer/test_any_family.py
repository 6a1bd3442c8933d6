"""Every family that people train: the trainer's numbers are transformers', whatever its layers are.

Prompt and row are longer than every window, and multipliers, caps and biases are unlike their defaults: see
`tests/families.py`. T = target tokens.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import peft
import pytest
import torch
from families import FAMILIES, make_tiny, save_tiny
from torch import Tensor
from transformers import DeepseekV3ForCausalLM, PreTrainedModel

from mint_common.adapters_format import BASE_FILE
from mint_common.adapters_format.names import leaf_of
from mint_common.errors import SettingInvalid
from services.standalone.adapters.base_description import describe_base
from services.trainer.adapters.distributed.tensor_parallel import check_cuttable
from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.model.routing import RouteReplay, replayed
from services.trainer.core.batch import Row
from services.trainer.core.layer_rules import MAX_SHARED
from services.trainer.core.packing import PackedSequence, pack_rows

from .any_family import (
    facts_of,
    farthest,
    merge,
    plain_gradients,
    plain_scores,
    rows_behind_a_prompt,
)
from .families import everything
from .plain_peft import gradients_of
from .test_lora import with_random_b

TRAINED = [name for name in FAMILIES if name != "gpt2"]
"""GPT-2 has no linear modules: its Conv1D is transformers' own."""
ALONE = {
    "deepseek_v32",
    "glm_moe_dsa",
    "granite4",
    "kimi_linear",
    "lfm2",
    "lfm2_moe",
    "nemotron_h",
    "nemotron_h_moe",
    "qwen3_5",
    "qwen3_5_images",
    "qwen3_5_moe",
    "qwen3_5_moe_images",
    "qwen3_next",
}
"""A state runs along their lines, or an indexer picks keys of a whole one."""
ROUTED = [
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "gemma4_moe",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt_oss",
    "granite4",
    "kimi_linear",
    "lfm2_moe",
    "llama4",
    "minimax_m2",
    "mixtral",
    "nemotron_h_moe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_5_moe_images",
    "qwen3_moe",
    "qwen3_next",
]
CUT = {"cohere2", "exaone4", "gemma2", "gemma3", "granite", "llama", "mistral", "qwen2", "qwen3", "smollm3"}
"""Some that tensor parallelism cuts; it refuses sinks and norms of all heads, fused parts, states."""
NATS = 5e-5
GRADIENT = 1e-4


def resident(name: str, dtype: torch.dtype = torch.float32) -> ResidentBase:
    model = make_tiny(name)
    return ResidentBase(model.to(dtype), facts_of(model))


def plain(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the same model without the trainer, whose attention keeps a cap as sdpa does not."""
    model = make_tiny(name).to(dtype)
    if name == "gemma2":
        model.set_attn_implementation("eager")
    return model


def policies_of(base: ResidentBase, count: int = 2) -> list[LoraTensors]:
    return [
        with_random_b(new_lora(base.facts, everything(base.facts, rank=4 - seed, seed=seed)), std=0.05)
        for seed in range(count)
    ]


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of a whole gradient's difference, relative to its own."""
    off = torch.cat([(found[name] - one).flatten() for name, one in expected.items()])
    return float(off.norm() / torch.cat([one.flatten() for one in expected.values()]).norm())


def lines_of(base: ResidentBase, rows: Sequence[Row], policy: int = 0) -> list[PackedSequence]:
    return pack_rows(rows, policy=policy, max_length=base.rules.max_shared)


@pytest.mark.parametrize("name", TRAINED)
def test_scores_and_gradients_of_two_policies_in_a_pass_are_transformers(name: str) -> None:
    base = resident(name)
    policies = policies_of(base)
    rows = [rows_behind_a_prompt(seed) for seed in range(2)]
    lines = [line for number, own in enumerate(rows) for line in lines_of(base, own, number)]
    assert any(line.read().shares_prompt for line in lines) == (name not in ALONE)
    sizes = [sum(len(row.tokens) for row in own) for own in rows]
    scored_T = base.score(lines, policies).logprobs_T
    weight_T = torch.linspace(-1.0, 2.0, len(scored_T))
    (scored_T * weight_T).sum().backward()
    with torch.no_grad():
        bare_T = base.score(lines).logprobs_T
        assert torch.allclose(
            bare_T, torch.cat([plain_scores(plain(name), own) for own in rows]), atol=NATS, rtol=0
        )
    for policy, own, found_T, own_weight_T, before_T in zip(
        policies, rows, *(each.split(sizes) for each in (scored_T, weight_T, bare_T)), strict=True
    ):
        merged = merge(plain(name), policy)
        expected_T = plain_scores(merged, own)
        assert float((found_T - before_T).detach().abs().max()) > 0.01
        assert torch.allclose(found_T, expected_T, atol=NATS, rtol=0)
        expected = plain_gradients(merged, policy, (expected_T * own_weight_T).sum())
        assert all(bool(part.any()) for part in expected.values())
        assert farthest(policy, expected) < GRADIENT


@pytest.mark.parametrize("name", TRAINED)
def test_linears_equal_peft(name: str) -> None:
    base = resident(name)
    # PEFT refuses the last projection of Mamba, and takes MLPs beside experts for experts.
    left_out = {"out_proj"} if "nemotron" in name else set()
    left_out |= {"gate_proj", "up_proj", "down_proj"} if base.facts.experts else set()
    modules = {one: widths for one, widths in base.facts.modules.items() if leaf_of(one) not in left_out}
    facts = replace(base.facts, experts={}, modules=modules)
    spec = replace(everything(facts), targets=tuple({leaf_of(module) for module in modules}))
    policy = with_random_b(new_lora(facts, spec), std=0.05)
    config = peft.LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=list(modules))
    twin = peft.get_peft_model(plain(name), config).eval()
    loaded = peft.set_peft_model_state_dict(twin, {key: view.clone() for key, view in policy.named()})
    assert not loaded.unexpected_keys
    rows = rows_behind_a_prompt(3)
    ours_T, theirs_T = base.score(lines_of(base, rows), [policy]).logprobs_T, plain_scores(twin, rows)
    assert torch.allclose(ours_T, theirs_T, atol=NATS, rtol=0)
    ours_T.mean().backward()
    theirs_T.mean().backward()
    theirs = {key.replace(".default", ""): one.grad for key, one in twin.named_parameters()}
    for key, gradient in gradients_of(policy):
        assert torch.allclose(gradient, theirs[key], atol=GRADIENT * float(theirs[key].abs().max()), rtol=0)


def test_rows_behind_one_prompt_keep_the_frequencies_of_longrope_in_a_line_beyond_its_first_context() -> None:
    base = resident("phi3_longrope")
    rows = rows_behind_a_prompt(3, rows=4)
    (line,) = lines_of(base, rows)
    assert line.length > 64
    with torch.no_grad():
        found_T = base.score([line, lines_of(base, rows[:1])[0]]).logprobs_T
        expected_T = plain_scores(plain("phi3_longrope"), [*rows, rows[0]])
    assert torch.allclose(found_T, expected_T, atol=NATS, rtol=0)


@pytest.mark.parametrize("name", TRAINED)
def test_in_bfloat16_it_is_as_near_as_transformers(name: str) -> None:
    base = resident(name, torch.bfloat16)
    (policy,) = policies_of(base, 1)
    rows = rows_behind_a_prompt(5)
    found_T = base.score(lines_of(base, rows), [policy]).logprobs_T
    weight_T = torch.linspace(-1.0, 2.0, len(found_T))
    (found_T * weight_T).sum().backward()
    exact, rounded = (
        merge(plain(name, torch.bfloat16).to(to), policy) for to in (torch.float32, torch.bfloat16)
    )
    exact_T, rounded_T = plain_scores(exact, rows), plain_scores(rounded, rows).float()
    off, allowed = ((one - exact_T).detach().abs().mean() for one in (found_T, rounded_T))
    assert float(off) < 2 * float(allowed) + 1e-2
    gradient, near = (
        plain_gradients(one, policy, (scored_T * weight_T).sum())
        for one, scored_T in ((exact, exact_T), (rounded, rounded_T))
    )
    picks = base.rules.picks_keys or bool(base.facts.experts)
    # A choice of experts or of keys that rounding changes moves what comes after it.
    assert apart(dict(gradients_of(policy)), gradient) < 2 * apart(near, gradient) + (0.4 if picks else 0.05)


def routed(base: ResidentBase, row: Row, *, moved: int = 0) -> Row:
    """Return a row with the experts that the base chooses for it, or with those ``moved`` on."""
    ids = torch.tensor([(*row.prompt, *row.tokens[:-1])])
    own = RouteReplay(routes_XYK=torch.zeros(0), replays=False)
    with torch.no_grad(), replayed(base._gates, own):
        base.target_scores.body(input_ids=ids, use_cache=False)
    routes = ((own.chosen_routes() + moved) % base._experts).numpy().astype(np.uint16)
    prompt = len(row.prompt)
    return replace(row, prompt_experts=routes[:prompt].tobytes(), experts=routes[prompt:].tobytes())


@pytest.mark.parametrize("name", ROUTED)
def test_a_routers_own_choice_replayed_changes_nothing(name: str) -> None:
    base = resident(name)
    row = rows_behind_a_prompt(7, rows=1)[0]
    with torch.no_grad():
        silent = base.score(lines_of(base, [row]))
        own = base.score(lines_of(base, [routed(base, row)]))
        moved = base.score(lines_of(base, [routed(base, row, moved=1)]))
    assert torch.equal(own.logprobs_T, silent.logprobs_T)
    assert own.routed_T is not None
    assert own.off_route_T is not None
    assert bool(own.routed_T.all())
    assert not own.off_route_T.any()
    assert moved.off_route_T is not None
    assert float(moved.off_route_T.mean()) >= 0.5
    assert float((moved.logprobs_T - silent.logprobs_T).abs().max()) > 1e-3


def test_a_base_whose_router_is_not_found_says_so_and_trains_without_routes() -> None:
    model = plain("mixtral")
    row = routed(resident("mixtral"), rows_behind_a_prompt(7, rows=1)[0])
    facts = facts_of(model)
    counted = {name: replace(one, count=one.count + 1) for name, one in facts.experts.items()}
    base = ResidentBase(model, replace(facts, experts=counted))
    assert base.route_problem == f"no router is beside {next(iter(counted))}"
    with torch.no_grad():
        assert base.score(lines_of(base, [row])).routed_T is None


@pytest.mark.parametrize(("groups", "times"), [(1, 1), (2, 2)])
def test_a_router_under_replay_runs_once_unless_it_chooses_groups_first(groups: int, times: int) -> None:
    config = FAMILIES["deepseek_v3"].config()
    config.n_group, config.topk_group = groups, 1
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(config).eval()
    base = ResidentBase(model, facts_of(model))
    row = rows_behind_a_prompt(7, rows=1)[0]
    own, moved = routed(base, row), routed(base, row, moved=1)
    calls: list[int] = []
    for gate in base._gates:
        gate.base.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        silent, *replayed_ = (base.score(lines_of(base, [each])) for each in (row, own, moved))
    assert len(calls) == (1 + 2 * times) * len(base._gates)
    assert torch.equal(replayed_[0].logprobs_T, silent.logprobs_T)
    assert not torch.equal(replayed_[1].logprobs_T, silent.logprobs_T)


@pytest.mark.parametrize(
    "name", [*sorted(CUT), "glm4", "gpt_oss", "lfm2", "minimax_m2", "olmo2", "phi3", "qwen3_5"]
)
def test_tensor_parallelism_refuses_what_it_would_cut_wrongly(name: str) -> None:
    base = resident(name)
    if name in CUT:
        check_cuttable(base, 2)
        return
    with pytest.raises(SettingInvalid, match=f"tensor does not cut {base.facts.architecture}"):
        check_cuttable(base, 2)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name.endswith("_images")])
def test_a_folder_of_a_model_that_sees_images_is_trained_as_what_it_is(name: str, tmp_path: Path) -> None:
    facts = describe_base(save_tiny(tmp_path, name), name="tiny", max_rank=8)
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    base = load_base(tmp_path)
    assert base.rules.max_shared == (0 if facts.shares_prompts is False else MAX_SHARED)
    policy = with_random_b(new_lora(facts, everything(facts)), std=0.05)
    rows = rows_behind_a_prompt(9)
    base.score(lines_of(base, rows), [policy]).logprobs_T.sum().backward()
    assert [part for part, gradient in gradients_of(policy) if not gradient.any()] == []
    model = make_tiny(name)
    with torch.no_grad():
        for weight in model.parameters():  # rotary frequencies stay in float32
            weight.copy_(weight.to(getattr(torch, FAMILIES[name].dtype)))
        bare_T, expected_T = base.score(lines_of(base, rows)).logprobs_T, plain_scores(model, rows)
    assert torch.allclose(bare_T, expected_T, atol=NATS, rtol=0)


def test_a_type_that_is_new_in_name_only_is_loaded_as_its_class(tmp_path: Path) -> None:
    path = save_tiny(tmp_path, "deepseek_v3") / "config.json"
    path.write_text(path.read_text().replace('"model_type": "deepseek_v3"', '"model_type": "kimi_k2"'))
    facts = describe_base(tmp_path, name="tiny", max_rank=8)
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    rows = rows_behind_a_prompt(9)
    base = load_base(tmp_path)
    with torch.no_grad():
        found_T = base.score(lines_of(base, rows)).logprobs_T
        assert torch.allclose(found_T, plain_scores(plain("deepseek_v3"), rows), atol=NATS, rtol=0)


def test_experts_that_do_more_than_their_layout_says_are_refused() -> None:
    model = make_tiny("mixtral")
    facts = facts_of(model)
    for layer in model.model.layers:
        layer.mlp.experts.register_forward_hook(lambda _module, _args, y: 2 * y)
    with pytest.raises(SettingInvalid, match="MixtralExperts computes in a way that is not known"):
        ResidentBase(model, facts)
    ResidentBase(make_tiny("mixtral"), replace(facts, experts={}))
