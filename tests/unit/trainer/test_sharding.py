"""Two ranks hold a base together: scores, gradients, steps and exports are those of one rank.

This process is rank 0, as the trainer is; `following.py` is rank 1. T = target tokens.
"""
# ruff: noqa: N806  # tensors carry their shape in their name

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import torch
from families import FAMILIES as ANY_FAMILY
from families import make_tiny, save_tiny

from mint_common.adapters_format import BASE_FILE, AdapterFiles, build_adapter
from mint_common.errors import SettingInvalid
from mint_common.ids import PolicyId
from mint_common.model_files import WEIGHTS_FILE
from services.trainer.adapters.distributed.ranks import Ranks, host_store, joined_ranks
from services.trainer.adapters.distributed.shapes import base_bytes, load_sharded
from services.trainer.adapters.distributed.sharded_base import ShardedBase
from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.lora.tensors import folded_arrays, new_lora
from services.trainer.adapters.model.resident_base import ResidentBase, load_base
from services.trainer.adapters.model.scoring import ScoringBase
from services.trainer.adapters.states.training_state import new_state
from services.trainer.core.lines import LineTokens
from services.trainer.core.placement import ON_CPU, Placement
from services.trainer.core.ranks import ProcessRank, RankFault, RankLost, RankSetup, Sharding

from .any_family import facts_of
from .conftest import TINY
from .families import describe_family, everything
from .full_memory import TOO_LONG, TOO_LONG_BACKWARD, fill_memory
from .managed import Work, step_policies
from .test_batched_steps import GRPO, SFT
from .test_families import batch_of, lines_of, rows_of
from .test_lora import with_random_b

FAST: list[tuple[Sharding, str]] = [
    ("data", "tiny"),
    ("fsdp", "tiny"),
    ("zero3", "tiny"),
    ("tensor", "tiny"),
    ("fsdp", "Qwen3Moe"),
    ("zero3", "Qwen3Moe"),
    ("expert", "Qwen3Moe"),
    ("tensor", "Qwen3Moe"),
    ("tensor", "DeepseekV3"),
]
SLOW: list[tuple[Sharding, str]] = [
    ("data", "DeepseekV2"),
    ("fsdp", "DeepseekV3"),
    ("zero3", "DeepseekV3"),
    ("expert", "DeepseekV3"),
    ("fsdp", "DeepseekV32"),
    ("expert", "DeepseekV32"),
    ("zero3", "GlmMoeDsa"),
    ("expert", "GlmMoeDsa"),
    ("expert", "Glm4MoeLite"),
    ("tensor", "Llama"),
    ("tensor", "DeepseekV2"),
    ("tensor", "DeepseekV2Lite"),
    ("tensor", "DeepseekV32"),
    ("tensor", "GlmMoeDsa"),
    ("tensor", "Glm4MoeLite"),
    ("zero3", "Llama"),
    ("tensor", "qwen2"),
    ("tensor", "gemma2"),
    ("tensor", "cohere2"),
    ("tensor", "mixtral"),
    ("tensor", "gemma4_moe"),
    ("expert", "gpt_oss"),
    ("expert", "granite4"),
    ("expert", "gemma4_moe"),
    ("fsdp", "gpt_oss"),
    ("fsdp", "gemma4"),
    ("fsdp", "qwen3_5"),
    ("fsdp", "llama4"),
    ("zero3", "gemma2"),
    ("zero3", "mixtral"),
]
MATRIX = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
# Latent attention whose queries come of no latent.
VARIANTS: dict[str, tuple[str, dict[str, int | None]]] = {
    "DeepseekV2Lite": ("DeepseekV2", {"q_lora_rank": None})
}
TIMEOUT_SECONDS = 60.0
# DeepSpeed 0.19 speaks torch 2.13's older words.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.distributed.*is deprecated:FutureWarning")


@dataclass(slots=True)
class Pair:
    """This rank and the other one."""

    ranks: Ranks
    other: subprocess.Popen[str]

    @contextmanager
    def base(
        self, sharding: Sharding, folder: Path, placement: Placement = ON_CPU
    ) -> Iterator[tuple[ShardedBase, int]]:
        """Hold a base together until the block ends; with it come the bytes of weights that rank 0 keeps."""
        assert self.other.stdin is not None
        self.other.stdin.write(f"{sharding} {folder} {placement.dtype} {placement.checkpointing}\n")
        self.other.stdin.flush()
        passes = load_sharded(RankSetup(folder=folder, sharding=sharding, placement=placement), self.ranks)
        lost: list[RankLost] = []
        base = ShardedBase(passes, self.ranks, lost=lost.append, timeout_seconds=TIMEOUT_SECONDS)
        try:
            yield base, base_bytes(passes.base.target_scores)
        finally:
            base.close()
            assert lost == []


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Two ranks, for one base after another."""
    store = host_store(2, timeout_seconds=TIMEOUT_SECONDS)
    other = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("following.py")), str(store.port)],
        stdin=subprocess.PIPE,
        text=True,
    )
    try:
        setup = RankSetup(folder=TINY, timeout_seconds=TIMEOUT_SECONDS)
        with joined_ranks(setup, ProcessRank(count=2), store=store) as ranks:
            yield Pair(ranks, other)
            assert other.stdin is not None
            other.stdin.close()
            assert other.wait(TIMEOUT_SECONDS) == 0
    finally:
        other.kill()
        other.wait()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of bases, by family."""

    @cache
    def make(family: str) -> Path:
        if family == "tiny":
            return TINY
        folder = tmp_path_factory.mktemp(family)
        if family in ANY_FAMILY:
            facts = facts_of(make_tiny(family))
            (save_tiny(folder, family) / BASE_FILE).write_bytes(msgspec.json.encode(facts))
            return folder
        family, changes = VARIANTS.get(family, (family, {}))
        facts = describe_family(family, folder, **changes)
        (folder / BASE_FILE).write_bytes(msgspec.json.encode(facts))
        return folder

    return make


def scored(base: ScoringBase, one: ResidentBase) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Return what a mix of policies scores, and its gradients."""
    specs = [everything(one.facts), everything(one.facts, rank=2, seed=1), everything(one.facts, seed=2)]
    specs[2] = replace(specs[2], targets=one.facts.targets[:2])
    policies = [with_random_b(new_lora(one.facts, spec), std=0.05) for spec in specs]
    # Ragged: the ranks have unequal shares, and the first has lines of two policies.
    lines = [
        line
        for number, count in enumerate((3, 1, 1))
        for line in lines_of(one, rows_of(number, rows=count), policy=number)
    ]
    logprobs_T = base.score(lines, policies).logprobs_T
    weights_T = torch.linspace(-1.0, 2.0, len(logprobs_T))
    with torch.no_grad():
        bare_T = base.score(lines).logprobs_T  # between a pass and its gradients, as the KL term does
    ((logprobs_T - bare_T) * weights_T).mean().backward()
    return logprobs_T.detach(), [policy.leaf.grad for policy in policies]


@pytest.mark.parametrize(("sharding", "family"), MATRIX)
def test_scores_and_gradients_equal_one_ranks(
    sharding: Sharding, family: str, pair: Pair, folders: Callable[[str], Path]
) -> None:
    one = load_base(folders(family))
    expected_T, expected = scored(one, one)
    with pair.base(sharding, folders(family)) as (base, kept):
        found_T, found = scored(base, one)
        assert torch.allclose(found_T, expected_T, atol=1e-5, rtol=0)
        for ours, theirs in zip(found, expected, strict=True):
            assert float(theirs.abs().max()) > 1e-4
            assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)
    whole = base_bytes(one.target_scores)
    experts = sum(base_bytes(slot.base) for slot in one.slots if isinstance(slot, LoraExperts))
    least_saved = {"data": 0.0, "tensor": 0.2 * whole, "expert": 0.5 * experts}.get(sharding, 0.4 * whole)
    assert whole - kept >= least_saved


@pytest.mark.parametrize(
    ("sharding", "family"),
    [("data", "Qwen3"), ("fsdp", "Qwen3"), ("zero3", "Qwen3"), ("tensor", "Qwen3"), ("expert", "Qwen3Moe")],
)
def test_in_bfloat16_with_layers_computed_again_they_are_near_one_ranks(
    sharding: Sharding, family: str, pair: Pair, folders: Callable[[str], Path]
) -> None:
    small = Placement(dtype="bfloat16", checkpointing="on")
    one = load_base(folders(family), small)
    expected_T, expected = scored(one, one)
    with pair.base(sharding, folders(family), small) as (base, _):
        found_T, found = scored(base, one)
    assert float((found_T - expected_T).abs().mean()) < 1e-2
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.1


def targeted(base: ScoringBase, one: ResidentBase) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what a client's pass scores, several targets a position, its gradient and its hits."""
    policy = with_random_b(new_lora(one.facts, everything(one.facts)), std=0.05)
    generator = torch.Generator().manual_seed(0)
    lines = [
        LineTokens(
            policy=0,
            token_L=torch.randint(3, 264, (length,), generator=generator).numpy(),
            where_T=np.array(where),
            targets=torch.randint(3, 264, (len(where), *shape), generator=generator).numpy(),
            width=sum(shape),
            counts_hits=True,
        )
        for length, where, shape in ((12, [0, 5, 11], (2,)), (12, [0, 8, 11], ()), (7, [6], (1,)))
    ]
    scored = base.score(lines, [policy])
    logprobs_TK = scored.logprobs_T
    assert logprobs_TK.shape == (7, 2)
    (logprobs_TK * torch.linspace(-1.0, 2.0, 7)[:, None]).mean().backward()
    assert policy.leaf.grad is not None
    assert scored.hit_T is not None
    assert scored.hit_T.shape == (7,)
    return logprobs_TK.detach(), policy.leaf.grad, scored.hit_T


@pytest.mark.parametrize(
    ("sharding", "family"), [("data", "tiny"), ("fsdp", "tiny"), ("zero3", "tiny"), ("expert", "Qwen3Moe")]
)
def test_passes_of_clients_equal_one_ranks(
    sharding: Sharding, family: str, pair: Pair, folders: Callable[[str], Path]
) -> None:
    one = load_base(folders(family))
    expected = targeted(one, one)
    with pair.base(sharding, folders(family)) as (base, _):
        found = targeted(base, one)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def exported(base: ScoringBase, one: ResidentBase) -> tuple[list[dict[str, float]], AdapterFiles]:
    """Return the metrics of some steps and what they come to."""
    state = new_state(one.facts, everything(one.facts))
    rows = tuple(replace(row, logprobs=(-4.0,) * len(row.tokens)) for row in rows_of(1))
    metrics = []
    for settings in (SFT, replace(GRPO, kl_coefficient=0.1), replace(SFT, clip_norm=0.1)):
        work = Work(state=state, batch=batch_of(rows), settings=settings)
        (result,) = step_policies(base, [work], max_tokens=48)
        assert isinstance(result, dict)
        metrics.append(result)
    files = build_adapter(
        facts=one.facts,
        policy_id=PolicyId("policy_a"),
        step=state.step,
        parent=None,
        rank=state.lora.rank,
        tensors=folded_arrays(state.lora),
    )
    return metrics, files


@pytest.mark.parametrize(("sharding", "family"), MATRIX)
def test_steps_and_their_export_equal_one_ranks(
    sharding: Sharding, family: str, pair: Pair, folders: Callable[[str], Path]
) -> None:
    one = load_base(folders(family))
    expected, expected_files = exported(one, one)
    with pair.base(sharding, folders(family)) as (base, _):
        found, files = exported(base, one)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5, rel=1e-5)
    assert files.manifest.targets == expected_files.manifest.targets
    found_bytes, expected_bytes = (one.files[WEIGHTS_FILE] for one in (files, expected_files))
    header = 8 + int.from_bytes(expected_bytes[:8], "little")
    assert found_bytes[:header] == expected_bytes[:header]
    found_of, expected_of = (safetensors.numpy.load(data) for data in (found_bytes, expected_bytes))
    for name, values in expected_of.items():
        # Adam's first step is the sign of a gradient: where that is near zero, rounding decides.
        assert np.abs(found_of[name] - values).mean() < 1e-5, name


def test_a_sharding_that_does_not_fit_the_base_is_refused(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="MINT_TRAINER_SHARDING: expert needs a base with experts"):
        load_sharded(RankSetup(folder=TINY, sharding="expert"), pair.ranks)
    facts = describe_family("Llama", tmp_path, num_key_value_heads=1)
    (tmp_path / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    with pytest.raises(
        SettingInvalid, match="MINT_TRAINER_RANKS: 2 ranks cannot share 1 key and value heads"
    ):
        load_sharded(RankSetup(folder=tmp_path, sharding="tensor"), pair.ranks)
    facts = describe_family("DeepseekV32", tmp_path / "sparse")
    facts = replace(facts, modules={**facts.modules, "model.layers.0.self_attn.indexer.wk": (64, 16)})
    (tmp_path / "sparse" / BASE_FILE).write_bytes(msgspec.json.encode(facts))
    with pytest.raises(SettingInvalid, match="MINT_TRAINER_SHARDING: tensor does not cut DeepseekV32"):
        load_sharded(RankSetup(folder=tmp_path / "sparse", sharding="tensor"), pair.ranks)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("length", [TOO_LONG, TOO_LONG_BACKWARD])
def test_a_rank_whose_memory_is_full_fails_the_pass_and_loses_no_rank(
    rank: int, length: int, pair: Pair
) -> None:
    one = load_base(TINY)
    expected_T, expected = scored(one, one)
    with pair.base("data", TINY) as (base, _):
        if rank == 0:
            fill_memory(base._passes.base)  # of this process's rank
        lengths = (length, 12) if rank == 0 else (12, length)
        lines = [line_of(count) for count in lengths]
        policy = new_lora(one.facts, everything(one.facts))
        for _ in range(2):
            with pytest.raises(RankFault):
                base.score(lines, [policy]).logprobs_T.sum().backward()
        found_T, found = scored(base, one)
    assert torch.allclose(found_T, expected_T, atol=1e-5, rtol=0)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def line_of(length: int) -> LineTokens:
    """Return a line of so many tokens."""
    return LineTokens(
        policy=0, token_L=np.arange(3, 3 + length), where_T=np.array([0, 5]), targets=np.array([7, 8])
    )
