"""Router replay: the sampler's routes are taken, unusable ones masked, disagreement reported."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from mint_common.ids import WaveId
from mint_common.records import Group, Sample, WaveRecord, decode_record, encode_blob
from services.standalone.adapters.base_description import describe_base
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.core.batch import Batch, Row, build_grpo_batch
from services.trainer.core.packing import pack_rows
from services.trainer.core.record_check import check_record
from services.trainer.core.refusals import RecordInvalid

from .families import SIZES, describe_family, everything, make_family
from .managed import StepSettings, Work, step_policies
from .plain_peft import row_logprobs
from .test_families import ROUTED

GRPO = StepSettings(algorithm="grpo", learning_rate=1e-3, kl_coefficient=0.0, clip_norm=0.0)


def routes_of(model: PreTrainedModel, ids: list[int], *, layers: int) -> np.ndarray:
    """Return the experts that a model's routers choose: [tokens, layers, experts of a token]."""
    routes: list[torch.Tensor] = []
    gates = [module.gate for module in model.modules() if hasattr(module, "gate")]
    assert len(gates) == layers

    def note(_gate: torch.nn.Module, _inputs: object, found: tuple[torch.Tensor, ...]) -> None:
        routes.append(found[2])

    hooks = [gate.register_forward_hook(note) for gate in gates]
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return torch.stack(routes, dim=1).numpy().astype(np.uint16)


def sampled_rows(model: PreTrainedModel, *, layers: int, seed: int = 0) -> list[Row]:
    """Rows of two groups with the routes and log-probabilities of a model, as an engine would record them."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for prompt_length in (5, 7):
        prompt = torch.randint(3, 264, (prompt_length,), generator=generator).tolist()
        prompt_experts = b""
        for length in (6, 9):
            tokens = torch.randint(3, 264, (length,), generator=generator).tolist()
            recorded = routes_of(model, prompt + tokens[:-1], layers=layers)
            row = Row(prompt=tuple(prompt), tokens=tuple(tokens), logprobs=(), advantage=float(length - 7))
            with torch.no_grad():
                logprobs = row_logprobs(model, row).float().tolist()
            prompt_experts = prompt_experts or recorded[:prompt_length].tobytes()
            rows.append(
                replace(
                    row,
                    logprobs=tuple(logprobs),
                    prompt_experts=prompt_experts,
                    experts=recorded[prompt_length:].tobytes(),
                )
            )
    return rows


def batch_of(rows: list[Row]) -> Batch:
    total = sum(len(row.tokens) for row in rows)
    return Batch(rows=tuple(rows), probe=(), total_tokens=total, skipped_groups=0, reward_mean=0.0)


def step(base: ResidentBase, rows: list[Row]) -> tuple[dict[str, float], torch.Tensor]:
    """Step a fresh policy; return the metrics and its weights."""
    state = new_state(base.facts, everything(base.facts))
    (metrics,) = step_policies(base, [Work(state=state, batch=batch_of(rows), settings=GRPO)], max_tokens=256)
    assert isinstance(metrics, dict)
    return metrics, state.lora.leaf.detach()


@pytest.mark.parametrize("name", ROUTED)
def test_replaying_the_own_routes_changes_nothing(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    rows = sampled_rows(make_family(name), layers=len(facts.experts))
    base = ResidentBase(make_family(name), facts)
    lines = pack_rows(rows, policy=0, max_length=64 if base.rules.max_shared else 0)
    silent = [replace(row, experts=b"", prompt_experts=b"") for row in rows]
    with torch.no_grad():
        replayed = base.score(lines)
        own = base.score(pack_rows(silent, policy=0, max_length=64 if base.rules.max_shared else 0))
    assert torch.allclose(replayed.logprobs_T, own.logprobs_T, atol=1e-6, rtol=0)
    assert own.routed_T is None
    assert replayed.routed_T is not None
    assert replayed.off_route_T is not None
    assert bool(replayed.routed_T.all())
    assert not replayed.off_route_T.any()


@pytest.fixture
def deep(tmp_path: Path) -> Callable[[], tuple[ResidentBase, list[Row]]]:
    """Make a base with many routers, and rows that its 16-bit copy sampled."""
    config = Qwen3MoeConfig(
        **{**SIZES, "num_hidden_layers": 8},
        num_key_value_heads=2,
        head_dim=16,
        moe_intermediate_size=32,
        num_experts=16,
        num_experts_per_tok=2,
    )

    def model() -> PreTrainedModel:
        torch.manual_seed(0)
        made = Qwen3MoeForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.08)
        return made

    def make() -> tuple[ResidentBase, list[Row]]:
        model().save_pretrained(tmp_path)
        facts = describe_base(tmp_path, name="deep", max_rank=16)
        rows = [
            row for seed in range(4) for row in sampled_rows(model().to(torch.bfloat16), layers=8, seed=seed)
        ]
        return ResidentBase(model(), facts), rows

    return make


def test_replay_brings_trainer_and_sampler_together(
    deep: Callable[[], tuple[ResidentBase, list[Row]]],
) -> None:
    base, rows = deep()
    with_replay, _ = step(base, rows)
    base.replays_routes = False
    without, _ = step(base, rows)
    # Behind a replayed layer the next router sees what the sampler's saw: fewer of its choices differ.
    assert 0 < with_replay["out_of_route_ratio"] < without["out_of_route_ratio"] < 0.2
    assert with_replay["ratio_max_error"] < without["ratio_max_error"]
    assert with_replay["unrouted_tokens"] == 0


def test_tokens_without_a_usable_route_teach_nothing(
    deep: Callable[[], tuple[ResidentBase, list[Row]]],
) -> None:
    base, rows = deep()
    unknown = np.frombuffer(rows[1].experts, dtype=np.uint16).copy()
    unknown[:] = 16
    strange = [rows[0], replace(rows[1], experts=unknown.tobytes()), *rows[2:]]
    lost = [rows[0], replace(rows[1], experts=b""), *rows[2:]]
    found, leaf = step(base, strange)
    assert found["unrouted_tokens"] == len(rows[1].tokens) - 1
    assert torch.equal(step(base, lost)[1], leaf)
    # A wild log-probability of a masked token does no harm.
    logprobs = (rows[1].logprobs[0], *(-1e4 for _ in rows[1].logprobs[1:]))
    wild = [rows[0], replace(strange[1], logprobs=logprobs), *rows[2:]]
    assert torch.equal(step(base, wild)[1], leaf)
    assert not torch.equal(step(base, rows)[1], leaf)


def record_of(rows: list[Row]) -> WaveRecord:
    groups = tuple(
        Group(
            prompt_tokens=pair[0].prompt,
            prompt_experts=pair[0].prompt_experts,
            samples=tuple(
                Sample(
                    tokens=row.tokens, logprobs=row.logprobs, reward=float(n), text="", experts=row.experts
                )
                for n, row in enumerate(pair)
            ),
        )
        for pair in (rows[:2], rows[2:])
    )
    return WaveRecord(wave_id=WaveId("wave_1"), revision=None, groups=groups)


def test_routes_travel_in_the_record_and_are_checked(tmp_path: Path) -> None:
    facts = describe_family("Qwen3Moe", tmp_path)
    rows = sampled_rows(make_family("Qwen3Moe"), layers=2)
    record = decode_record(encode_blob(record_of(rows)))

    def check(record: WaveRecord) -> None:
        check_record(record, facts, needs_logprobs=True)

    check(record)
    assert [row.experts for row in build_grpo_batch(record).rows] == [row.experts for row in rows]
    check(record_of([replace(row, experts=b"", prompt_experts=b"") for row in rows]))
    cut = [rows[0], replace(rows[1], experts=rows[1].experts[:-4]), *rows[2:]]
    with pytest.raises(RecordInvalid, match=r"groups\[0\].samples\[1\].experts"):
        check(record_of(cut))
    dense = replace(facts, experts={})
    with pytest.raises(RecordInvalid, match="0 routed layers"):
        check_record(record, dense, needs_logprobs=True)
