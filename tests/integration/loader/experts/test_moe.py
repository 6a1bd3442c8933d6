"""Experts with LoRA: packed, per-expert and PEFT's own serve alike, and as transformers computes."""

import asyncio
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file

from mint_common.adapters_format import (
    CONFIG_FILE,
    DENSE,
    FUSED,
    MANIFEST_FILE,
    PACKED,
    WEIGHTS_FILE,
    AdapterFiles,
    convert_adapter,
    read_base_facts,
    read_manifest,
    store_adapter,
    write_manifest,
)
from mint_common.adapters_format.tensor_file import map_tensors, write_tensors
from mint_common.claims import RevisionRef
from mint_common.errors import AdapterInvalid, NonFiniteOutput
from mint_common.events import LoraSpec
from mint_common.ids import Digest, PolicyId
from mint_common.runtime.clock import SystemClock
from services.loader.adapters.builder.disk_cache import DiskCache
from services.trainer.adapters.states.training_state import new_state, park_state, state_export
from services.trainer.core.operations import ExportLineage
from tests.integration.loader.moe_base import (
    Answer,
    Served,
    load_base,
    logprobs_under,
    max_difference,
    merged,
    random_adapter,
    running_engine,
)
from tests.testing.adapters import vouched
from tests.testing.blobs_memory import MemoryBlobs
from tools.make_moe_base import TINY, make_moe_base

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(400)]

TOLERANCE = 1e-4
ROUNDING = 1e-5
"""Who shares a step, and so the order of its float32 sums, differs from answer to answer."""


async def assert_all_layouts_serve_alike(served: Served, folder: Path) -> None:
    """Serve the base, two packed adapters, a per-expert copy and a dense adapter in one batch."""
    facts = served.facts
    one = random_adapter(facts, folder / "one", seed=1)
    two = random_adapter(facts, folder / "two", seed=2, rank=8)
    attention = random_adapter(facts, folder / "attention", seed=3, routed=False)
    convert_adapter(facts, one, folder / "split", layout=DENSE)
    folders = {"one": one, "split": folder / "split", "two": two, "attention": attention}
    loaded = {name: await served.load(path) for name, path in folders.items()}
    seeds = (1, 2, 3)
    who = [None, *loaded.values()]
    flat = await asyncio.gather(*(served.sample(adapter, seed=seed) for seed in seeds for adapter in who))
    answers = {name: flat[i :: len(who)] for i, name in enumerate(["base", *loaded])}
    for packed, split in zip(answers["one"], answers["split"], strict=True):
        assert packed.tokens == split.tokens
        assert np.allclose(packed.logprobs, split.logprobs, rtol=0, atol=ROUNDING)
    assert (
        max_difference(logprobs_under(load_base(served.base), answers["base"]), answers["base"]) < TOLERANCE
    )
    for name in ("one", "two", "attention"):
        model = merged(served.base, facts, load_file(folders[name] / WEIGHTS_FILE))
        assert max_difference(logprobs_under(model, answers[name]), answers[name]) < TOLERANCE, name
        assert max_difference(logprobs_under(model, answers["base"]), answers["base"]) > 0.1, "it acts"


async def test_every_layout_serves_what_transformers_computes(served: Served, tmp_path: Path) -> None:
    await assert_all_layouts_serve_alike(served, tmp_path)


async def test_experts_alone_act(served: Served, tmp_path: Path) -> None:
    packed = random_adapter(served.facts, tmp_path / "a", seed=4)
    tensors = load_file(packed / WEIGHTS_FILE)
    only = {name: t * 0 if name.endswith(".lora_B.weight") else t for name, t in tensors.items()}
    found = [await served.sample(await served.load(packed), seed=seed) for seed in (1, 2)]
    model = merged(served.base, served.facts, only)
    assert max_difference(logprobs_under(model, found), found) > 0.1, "attention acts too"


async def test_what_peft_saves_is_served_packed_and_peft_reads_what_is_unpacked(
    served: Served, tmp_path: Path
) -> None:
    config = peft.LoraConfig(
        r=4,
        lora_alpha=12,
        lora_dropout=0.0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
        target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    )
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        trained = peft.get_peft_model(load_base(served.base), config).eval()
        with torch.no_grad():
            for name, parameter in trained.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        trained.save_pretrained(tmp_path / "peft")
    manifest = convert_adapter(served.facts, tmp_path / "peft", tmp_path / "packed", layout=PACKED)
    assert manifest.layout == PACKED
    adapter = await served.load(tmp_path / "packed")
    answers = [await served.sample(adapter, seed=seed) for seed in (1, 2, 3)]
    assert max_difference(logprobs_under(trained, answers), answers) < TOLERANCE
    convert_adapter(served.facts, tmp_path / "packed", tmp_path / "fused", layout=FUSED)
    again = peft.PeftModel.from_pretrained(load_base(served.base), tmp_path / "fused").eval()
    assert max_difference(logprobs_under(again, answers), answers) < TOLERANCE


async def test_what_a_trainer_exports_is_served_alike_in_each_layout(served: Served, tmp_path: Path) -> None:
    lora = LoraSpec(rank=4, alpha=8.0, targets=served.facts.targets, seed=3)
    state = new_state(served.facts, lora)
    with torch.no_grad():
        state.lora.leaf.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    parked, after = park_state(state), ExportLineage(digest=None, parent=None)
    found = {}
    for layout in (PACKED, DENSE, FUSED):
        export = state_export(served.facts, PolicyId("policy_a"), parked, after, layout=layout)
        folder = tmp_path / layout.partition("/")[0]
        folder.mkdir()
        for name, data in export.adapter.files.items():
            (folder / name).write_bytes(data)
        # As a loader stages it.
        convert_adapter(served.facts, folder, folder / "staged", layout=PACKED)
        found[layout] = await served.sample(await served.load(folder / "staged"))
    assert found[DENSE] == found[PACKED]
    assert found[FUSED].tokens == found[PACKED].tokens
    assert np.allclose(found[FUSED].logprobs, found[PACKED].logprobs, rtol=0, atol=1e-5)


async def test_evicted_and_reloaded_adapters_answer_as_before(served: Served, tmp_path: Path) -> None:
    """B is scaled once, and no load writes to the file, however often it comes back."""
    folders = [random_adapter(served.facts, tmp_path / str(seed), seed=seed) for seed in range(3)]
    bytes_before = [(folder / WEIGHTS_FILE).read_bytes() for folder in folders]
    rounds = []
    for _ in range(3):
        adapters = [await served.load(folder) for folder in folders]
        rounds.append([await served.sample(adapter) for adapter in adapters])
        await served.unload_all()
    assert rounds[0] == rounds[1] == rounds[2]
    assert len({one.logprobs for one in rounds[0]}) == 3
    assert bytes_before == [(folder / WEIGHTS_FILE).read_bytes() for folder in folders]


async def test_one_copied_in_slices_answers_as_one_copied_at_once(served: Served, tmp_path: Path) -> None:
    folder = random_adapter(served.facts, tmp_path / "a", seed=8)
    expected = await served.sample(await served.load(folder))
    for _ in range(2):  # the second one after the pattern of the first
        assert await served.sample(await served.load(folder, slice_ms=0.001)) == expected


async def test_slots_are_shared_by_more_adapters_than_there_are(served: Served, tmp_path: Path) -> None:
    """Each adapter keeps its answers, packed or dense, whoever had its slot before."""
    folders = [
        random_adapter(served.facts, tmp_path / str(seed), seed=seed, routed=bool(seed % 3))
        for seed in range(7)
    ]
    alone = [await served.sample(await served.load(folder)) for folder in folders]
    again = [await served.sample(await served.load(folder)) for folder in folders]
    assert alone == again
    assert len(await served.engine._llm.list_loras()) <= 4


Change = Callable[[dict[str, torch.Tensor]], None]


def _spoil_value(tensors: dict[str, torch.Tensor]) -> None:
    next(t for name, t in tensors.items() if "experts.up_proj.lora_B" in name)[0, 0, 0] = float("nan")


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[next(name for name in tensors if "experts.down_proj.lora_A" in name)]


def _cut_rank(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "experts.gate_proj.lora_A" in name)
    tensors[name] = tensors[name][:, :2].contiguous()


def _lose_expert(tensors: dict[str, torch.Tensor]) -> None:
    name = next(name for name in tensors if "experts.gate_proj.lora_A" in name)
    tensors[name] = tensors[name][:-1].contiguous()


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("not_finite", _spoil_value),
        ("missing_tensor", _drop),
        ("wrong_rank", _cut_rank),
        ("wrong_shape", _lose_expert),
    ],
)
async def test_broken_packed_adapter_never_reaches_the_engine(
    served: Served, tmp_path: Path, reason: str, change: Change
) -> None:
    folder = random_adapter(served.facts, tmp_path / "a", seed=5)
    tensors = load_file(folder / WEIGHTS_FILE)
    change(tensors)
    order = [entry.name for entry in map_tensors(folder / WEIGHTS_FILE).header.tensors]
    weights = write_tensors({n: tensors[n].numpy() for n in order if n in tensors}, packed=True)
    manifest = vouched(weights, read_manifest((folder / MANIFEST_FILE).read_bytes()))
    files = AdapterFiles(
        files={
            WEIGHTS_FILE: weights,
            CONFIG_FILE: (folder / CONFIG_FILE).read_bytes(),
            MANIFEST_FILE: write_manifest(manifest),
        },
        digest=manifest.digest,
        manifest=manifest,
    )
    blobs = MemoryBlobs()
    claim = await store_adapter(blobs, files, export_id="e")
    cache = DiskCache(
        blobs, served.facts, root=tmp_path / "cache", capacity_bytes=1 << 30, clock=SystemClock()
    )
    cache.open()
    with pytest.raises(AdapterInvalid) as refused:
        await cache.stage(RevisionRef(digest=Digest(manifest.digest), number=1, manifest=claim))
    assert refused.value.reason == reason
    assert list((tmp_path / "cache").iterdir()) == []


async def test_an_adapter_that_the_engine_has_no_room_for_is_refused_and_it_lives(
    served: Served, tmp_path: Path
) -> None:
    wide = replace(served.facts, max_rank=16)
    before = await served.sample(None)
    with pytest.raises(Exception, match="rank 16 is over the engine's 8"):
        await served.load(random_adapter(wide, tmp_path / "a", seed=6, rank=16))
    assert await served.sample(None) == before


@pytest.mark.slow
async def test_128_experts_serve_what_transformers_computes(tmp_path: Path) -> None:
    facts = make_moe_base(tmp_path / "base", experts=128, expert_width=32)
    async with running_engine(tmp_path / "base", facts) as engine:
        await assert_all_layouts_serve_alike(Served(engine, tmp_path / "base", facts), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [0, 8])
async def test_two_workers_with_their_parts_serve_what_one_does_and_transformers_computes(
    tmp_path: Path, experts: int
) -> None:
    base = tmp_path / "base" if experts else TINY
    facts = make_moe_base(base, experts=experts) if experts else read_base_facts(TINY)
    folders = [random_adapter(facts, tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    answers, again = [], []
    for workers in (2, 1):
        async with running_engine(base, facts, tensor_parallel=workers) as engine:
            served = Served(engine, base, facts)
            loaded = [await served.load(folder, slice_ms=0.05) for folder in folders]
            answers.append(await asyncio.gather(*(served.sample(adapter) for adapter in [None, *loaded])))
            await served.unload_all()
            assert await engine.residents() == {}
            # The second one is cut after the pattern of the first.
            again += [await served.sample(await served.load(folders[0])) for _ in range(2)]
    models = [load_base(base), *(merged(base, facts, load_file(f / WEIGHTS_FILE)) for f in folders)]
    for model, two, one in zip(models, *answers, strict=True):
        assert two.tokens == one.tokens
        assert np.allclose(two.logprobs, one.logprobs, rtol=0, atol=1e-5)
        assert max_difference(logprobs_under(model, [two]), [two]) < TOLERANCE
    assert [one.tokens for one in again] == [answers[0][1].tokens] * 4
    assert len({one.logprobs for one in answers[0]}) == 3


async def test_experts_that_overflow_change_no_bit_of_others(served: Served, tmp_path: Path) -> None:
    good = await served.load(random_adapter(served.facts, tmp_path / "good", seed=5))

    async def answers() -> list[Answer]:
        return [await served.sample(adapter, seed=seed) for adapter in (None, good) for seed in (1, 2)]

    quiet = await answers()
    for number, part in enumerate(("self_attn.v_proj", "gate_proj", "down_proj")):
        folder = random_adapter(served.facts, tmp_path / f"bad-{number}", seed=6)
        tensors = load_file(folder / WEIGHTS_FILE)
        for name in tensors:
            if part in name and "lora_B" in name:
                tensors[name] = tensors[name].sign() * 3e38
        order = [entry.name for entry in map_tensors(folder / WEIGHTS_FILE).header.tensors]
        huge = write_tensors({name: tensors[name].numpy() for name in order}, packed=True)
        (folder / WEIGHTS_FILE).write_bytes(huge)
        bad = await served.load(folder)
        found = await asyncio.gather(
            *(served.sample(bad, seed=seed) for seed in range(4)), return_exceptions=True
        )
        assert all(isinstance(each, NonFiniteOutput) for each in found), part
        assert await answers() == quiet
