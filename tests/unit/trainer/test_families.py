"""Every architecture: LoRA reaches its targets and learns, policies share a pass, exports hold what it was.

The references are transformers' own modules: PEFT for what it wraps, merged weights for experts.
"""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from transformers import PreTrainedModel

from mint_common.adapters_format import PACKED, BaseFacts, build_adapter
from mint_common.ids import PolicyId
from services.trainer.adapters.lora.tensors import LoraTensors, folded_arrays, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state, read_state, write_state
from services.trainer.core.batch import Batch, Row
from services.trainer.core.packing import PackedSequence, pack_rows

from .families import FAMILIES, describe_family, everything, make_family
from .managed import StepSettings, Work, step_policies
from .plain_peft import gradients_of, row_logprobs
from .test_lora import with_random_b

ROUTED = [name for name, config in FAMILIES.items() if "num_experts_per_tok" in config]
SFT = StepSettings(algorithm="sft", learning_rate=1e-2, kl_coefficient=0.0, clip_norm=1.0)


def rows_of(seed: int, *, rows: int = 3, length: int = 20) -> tuple[Row, ...]:
    """Rows behind one prompt, and one behind another."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 264, (count,), generator=generator).tolist())

    prompts = [draw(6), draw(9)]
    return tuple(
        Row(prompt=prompts[number == rows - 1], tokens=draw(length - number), logprobs=(), advantage=1.0)
        for number in range(rows)
    )


def batch_of(rows: tuple[Row, ...]) -> Batch:
    total = sum(len(row.tokens) for row in rows)
    return Batch(rows=rows, probe=(), total_tokens=total, skipped_groups=0, reward_mean=0.0)


def lines_of(base: ResidentBase, rows: tuple[Row, ...], *, policy: int = 0) -> list[PackedSequence]:
    return pack_rows(rows, policy=policy, max_length=128 if base.rules.max_shared else 0)


def ordered(lines: list[PackedSequence]) -> list[Row]:
    return [row for line in lines for row in line.rows]


def merge(model: PreTrainedModel, facts: BaseFacts, tensors: LoraTensors) -> PreTrainedModel:
    """Add a policy's update to a model's own weights, the plain way."""
    views = {
        (part.site.name, part.half): view
        for part, (_, view) in zip(tensors.layout.parts, tensors.named(), strict=True)
    }
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for (name, half), a in views.items():
            if half == "B":
                continue
            update = views[name, "B"] @ a * tensors.scale
            module, _, projection = name.rpartition(".")
            if module not in facts.experts:
                parameters[f"{name}.weight"] += update
            elif projection == "down_proj":
                parameters[f"{module}.down_proj"] += update
            else:
                gate, up = parameters[f"{module}.gate_up_proj"].chunk(2, dim=1)
                (gate if projection == "gate_proj" else up).add_(update)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_policy_answers_as_the_merged_model(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    tensors = with_random_b(new_lora(facts, everything(facts)), std=0.05)
    lines = lines_of(base, rows_of(1))
    with torch.no_grad():
        ours = base.score(lines, [tensors]).logprobs_T
        bare = base.score(lines).logprobs_T
        merged = merge(make_family(name), facts, tensors)
        theirs = torch.cat([row_logprobs(merged, row) for row in ordered(lines)])
    assert float((ours - bare).abs().max()) > 0.05
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_learns_and_gradients_reach_every_target(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    state = new_state(facts, everything(facts))
    work = Work(state=state, batch=batch_of(rows_of(2)), settings=SFT)
    losses = []
    for _ in range(8):
        (metrics,) = step_policies(base, [work], max_tokens=512)
        assert isinstance(metrics, dict)
        losses.append(metrics["loss"])
    assert losses[-1] < losses[0] - 0.3
    base.score(lines_of(base, work.batch.rows), [state.lora]).logprobs_T.sum().backward()
    unreached = [name for name, gradient in gradients_of(state.lora) if not gradient.any()]
    assert unreached == []


@pytest.mark.parametrize("name", FAMILIES)
def test_policies_in_one_pass_have_the_gradients_of_passes_alone(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    specs = [
        everything(facts),
        everything(facts, rank=2, seed=1),
        replace(everything(facts, seed=2), targets=facts.targets[:2]),
    ]
    policies = [with_random_b(new_lora(facts, spec), std=0.05) for spec in specs]
    groups = [rows_of(seed, rows=2 + seed % 2) for seed in range(3)]
    lines = [line for n, rows in enumerate(groups) for line in lines_of(base, rows, policy=n)]
    together = base.score(lines, policies).logprobs_T
    sizes = [sum(len(row.tokens) for row in rows) for rows in groups]
    torch.stack([own.square().mean() for own in together.split(sizes)]).sum().backward()
    for number, (policy, rows, own) in enumerate(zip(policies, groups, together.split(sizes), strict=True)):
        gradient = policy.leaf.grad
        policy.leaf.grad = None
        alone = base.score(lines_of(base, rows), [policy]).logprobs_T
        assert torch.allclose(own, alone, atol=1e-5, rtol=0), number
        alone.square().mean().backward()
        assert torch.allclose(gradient, policy.leaf.grad, atol=1e-5, rtol=0), number


@pytest.mark.parametrize(
    "name", [name for name, config in FAMILIES.items() if "num_experts_per_tok" in config]
)
def test_experts_equal_peft_where_gate_and_up_share_an_a(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    targets = ("experts.down_proj", "experts.gate_proj", "experts.up_proj")
    tensors = with_random_b(new_lora(facts, replace(everything(facts), targets=targets)), std=0.05)
    views = dict(tensors.named())
    for key, view in views.items():
        if ".up_proj.lora_A." in key:
            view.copy_(views[key.replace(".up_proj.", ".gate_proj.")])
    config = peft.LoraConfig(
        r=tensors.rank,
        lora_alpha=tensors.rank * tensors.scale,
        target_modules=[],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    twin = peft.get_peft_model(make_family(name), config).eval()
    theirs_of = dict(twin.named_parameters())
    prefixes = sorted({key.rpartition(".experts.")[0] for key in views})

    def fused(named: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
        """Return one layer in PEFT's layout: A expert-major, B rank-major, gate above up."""
        half = {
            key.removeprefix(f"{prefix}.experts."): view
            for key, view in named.items()
            if key.startswith(prefix)
        }
        gate_up = torch.cat([half["gate_proj.lora_B.packed"], half["up_proj.lora_B.packed"]], dim=1)
        return {
            "base_layer.lora_B.default.weight": gate_up.permute(1, 2, 0).flatten(1),
            "lora_A.default.weight": half["down_proj.lora_A.packed"].flatten(0, 1),
            "lora_B.default.weight": half["down_proj.lora_B.packed"].permute(1, 2, 0).flatten(1),
        }

    with torch.no_grad():
        for prefix in prefixes:
            shared = views[f"{prefix}.experts.gate_proj.lora_A.packed"].flatten(0, 1)
            theirs_of[f"{prefix}.experts.base_layer.lora_A.default.weight"].copy_(shared)
            for key, value in fused(views, prefix).items():
                theirs_of[f"{prefix}.experts.{key}"].copy_(value)
    lines = lines_of(base, rows_of(3))
    ours = base.score(lines, [tensors]).logprobs_T
    theirs = torch.cat([row_logprobs(twin, row) for row in ordered(lines)])
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    ours.mean().backward()
    theirs.mean().backward()
    gradients = dict(gradients_of(tensors))
    for prefix in prefixes:
        shared = sum(gradients[f"{prefix}.experts.{one}.lora_A.packed"] for one in ("gate_proj", "up_proj"))
        expected = {**fused(gradients, prefix), "base_layer.lora_A.default.weight": shared.flatten(0, 1)}
        for key, value in expected.items():
            found = theirs_of[f"{prefix}.experts.{key}"].grad
            assert torch.allclose(value, found, atol=1e-5, rtol=0), (prefix, key)


@pytest.mark.parametrize("name", FAMILIES)
def test_exports_and_checkpoints_hold_what_was_trained(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    state = new_state(facts, everything(facts))
    work = Work(state=state, batch=batch_of(rows_of(4)), settings=SFT)
    step_policies(base, [work], max_tokens=512)
    files = build_adapter(
        facts=facts,
        policy_id=PolicyId("policy_a"),
        step=1,
        parent=None,
        rank=state.lora.rank,
        tensors=folded_arrays(state.lora),
    )
    assert files.manifest.targets == facts.targets
    assert (files.manifest.layout == PACKED) == bool(facts.experts)
    again = read_state(facts, everything(facts), write_state(state))
    assert torch.equal(again.lora.leaf, state.lora.leaf)


@pytest.mark.parametrize("name", ["DeepseekV32", "GlmMoeDsa"])
def test_sparse_attention_keeps_every_row_in_a_line_of_its_own(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = ResidentBase(make_family(name), facts)
    assert base.rules.picks_keys
    assert not base.rules.max_shared
    assert not any("indexer" in module for module in facts.modules)
