"""Exports in each layout: the same update, read again by peft and by a trainer."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from mint_common.adapters_format import (
    CONFIG_FILE,
    DENSE,
    FUSED,
    PACKED,
    WEIGHTS_FILE,
    AdapterFiles,
    BaseFacts,
    convert_adapter,
)
from mint_common.errors import AdapterInvalid
from mint_common.ids import PolicyId
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.adapters.states.stored_states import graft_weights
from services.trainer.adapters.states.training_state import (
    TrainingState,
    new_state,
    park_state,
    read_state,
    state_export,
    write_state,
)
from services.trainer.core.layout_check import check_layout
from services.trainer.core.operations import ExportLineage
from services.trainer.core.refusals import LoraInvalid

from .families import describe_family, everything, make_family
from .plain_peft import row_logprobs
from .test_families import lines_of, ordered, rows_of
from .test_lora import with_random_b

EXPERTS = ["Qwen3Moe", "DeepseekV3"]


@pytest.fixture(scope="module")
def moe_facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    """The facts of a base with experts."""
    return describe_family("Qwen3Moe", tmp_path_factory.mktemp("moe"))


def trained(facts: BaseFacts, *, rank: int = 4, targets: Sequence[str] = ()) -> TrainingState:
    spec = everything(facts, rank=rank)
    state = new_state(facts, replace(spec, targets=tuple(sorted(targets or spec.targets))))
    with_random_b(state.lora, std=0.05)
    return state


def export(facts: BaseFacts, state: TrainingState, layout: str) -> AdapterFiles:
    after = ExportLineage(digest=None, parent=None)
    return state_export(facts, PolicyId("policy_a"), park_state(state), after, layout=layout).adapter


def write(adapter: AdapterFiles, folder: Path) -> Path:
    folder.mkdir()
    for name, data in adapter.files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", EXPERTS)
def test_each_layout_holds_the_same_update(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    state = trained(facts)
    spec = everything(facts)
    for layout, times in ((PACKED, 1), (DENSE, 1), (FUSED, 2)):
        adapter = export(facts, state, layout)
        assert (adapter.manifest.layout, adapter.manifest.rank) == (layout, times * spec.rank)
        data = graft_weights(facts, spec, write_state(new_state(facts, spec)), adapter.files[WEIGHTS_FILE])
        torch.testing.assert_close(read_state(facts, spec, data).lora.leaf, state.lora.leaf)
        packed = convert_adapter(
            facts, write(adapter, tmp_path / layout[:5]), tmp_path / f"{layout[:5]}-packed", layout=PACKED
        )
        assert packed.rank == times * spec.rank  # what an engine makes of it
    split = load(export(facts, state, DENSE).files[WEIGHTS_FILE])
    whole = load(export(facts, state, PACKED).files[WEIGHTS_FILE])
    one = next(key for key in split if ".experts.1.up_proj.lora_A." in key)
    stack = one.replace(".experts.1.up_proj.lora_A.weight", ".experts.up_proj.lora_A.packed")
    assert np.array_equal(split[one], whole[stack][1])


def distances_to_peft(name: str, layout: str, folder: Path, *, targets: Sequence[str]) -> tuple[float, float]:
    """Return how far what peft makes of an export is from the trainer, and the policy from its base."""
    facts = describe_family(name, folder / "base")
    base = ResidentBase(make_family(name), facts)
    state = trained(facts, targets=targets)
    twin = peft.PeftModel.from_pretrained(
        make_family(name), write(export(facts, state, layout), folder / "adapter")
    ).eval()
    lines = lines_of(base, rows_of(1))
    with torch.no_grad():
        ours, bare = base.score(lines, [state.lora]).logprobs_T, base.score(lines).logprobs_T
        theirs = torch.cat([row_logprobs(twin, row) for row in ordered(lines)])
    return float((ours - theirs).abs().max()), float((ours - bare).abs().max())


# Of rank patterns that it has made up itself.
PEFT_WARNS = pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
LEAVES = ("gate_proj", "up_proj", "down_proj")
LATENT = ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj")
ALL = {
    "Qwen3Moe": ("q_proj", "k_proj", "v_proj", "o_proj", *LEAVES),
    "DeepseekV3": (*LATENT, *(f"experts.{leaf}" for leaf in LEAVES)),
    "Glm4MoeLite": (*LATENT, *(f"experts.{leaf}" for leaf in LEAVES)),
}


@PEFT_WARNS
@pytest.mark.parametrize("layout", [DENSE, FUSED])
@pytest.mark.parametrize("name", list(ALL))
def test_peft_reads_exports_of_both_its_layouts(name: str, layout: str, tmp_path: Path) -> None:
    off, moved = distances_to_peft(name, layout, tmp_path, targets=ALL[name])
    assert moved > 0.05
    assert off <= 1e-5


@PEFT_WARNS
@pytest.mark.parametrize("layout", [DENSE, FUSED])
def test_peft_leaves_out_dense_layers_and_shared_experts_beside_routed_ones(
    layout: str, tmp_path: Path
) -> None:
    # Of peft 0.21.2, without a word (docs/reference/adapter-format.md). When this fails it has learnt to.
    off, _ = distances_to_peft("DeepseekV3", layout, tmp_path, targets=(*LATENT, *LEAVES))
    assert off > 0.05


def test_the_config_of_a_fused_export_names_its_parameters(tmp_path: Path) -> None:
    facts = describe_family("Qwen3Moe", tmp_path / "base")
    config = json.loads(export(facts, trained(facts), FUSED).files[CONFIG_FILE])
    assert (config["r"], len(config["target_parameters"])) == (8, 2)


def test_where_gate_and_up_share_an_a_fusing_keeps_the_rank(tmp_path: Path) -> None:
    facts = describe_family("Qwen3Moe", tmp_path)
    state = trained(facts)
    views = dict(state.lora.named())
    for key, view in views.items():
        if ".experts.up_proj.lora_A." in key:
            view.copy_(views[key.replace(".up_proj.", ".gate_proj.")])
    adapter = export(facts, state, FUSED)
    assert adapter.manifest.rank == 4
    data = graft_weights(
        facts,
        everything(facts),
        write_state(new_state(facts, everything(facts))),
        adapter.files[WEIGHTS_FILE],
    )
    torch.testing.assert_close(read_state(facts, everything(facts), data).lora.leaf, state.lora.leaf)


def test_a_base_without_experts_has_one_layout(tmp_path: Path) -> None:
    facts = describe_family("Llama", tmp_path)
    state = trained(facts)
    adapters = {export(facts, state, layout).digest for layout in (PACKED, DENSE, FUSED)}
    assert len(adapters) == 1


def test_a_rank_that_doubles_beyond_the_base_is_refused(tmp_path: Path) -> None:
    facts = describe_family("Qwen3Moe", tmp_path)
    with pytest.raises(AdapterInvalid, match="rank 32"):
        export(facts, trained(facts, rank=16), FUSED)


@given(rank=st.integers(1, 16), targets=st.sets(st.sampled_from(["q_proj", *LEAVES]), min_size=1))
def test_what_cannot_be_exported_is_known_before_it_is_trained(
    moe_facts: BaseFacts, rank: int, targets: set[str]
) -> None:
    spec = replace(everything(moe_facts, rank=rank), targets=tuple(sorted(targets)))
    state = new_state(moe_facts, spec)
    with_random_b(state.lora, std=0.05)
    for layout in (PACKED, DENSE, FUSED):
        try:
            check_layout(layout, spec, moe_facts)
        except LoraInvalid:
            with pytest.raises(AdapterInvalid):
                export(moe_facts, state, layout)
        else:
            export(moe_facts, state, layout)
