"""A bfloat16 base, and layers that are computed again in the backward pass."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from mint_common.adapters_format import BaseFacts
from mint_common.errors import SettingInvalid
from services.trainer.adapters.lora import experts
from services.trainer.adapters.lora.tensors import LoraTensors, new_lora
from services.trainer.adapters.model import target_scores
from services.trainer.adapters.model.placing import place
from services.trainer.adapters.model.resident_base import ResidentBase
from services.trainer.core.batch import Row
from services.trainer.core.lines import Line
from services.trainer.core.microbatches import TokenNumbers
from services.trainer.core.packing import pack_rows
from services.trainer.core.placement import ON_CPU, Checkpointing, Placement, recomputes
from services.trainer.core.ranks import ALONE, ProcessRank

from .families import describe_family, everything, make_family
from .plain_peft import gradients_of, peft_twin, row_logprobs
from .test_lora import with_random_b
from .test_routing import sampled_rows

LOGPROBS = 3e-2
GRADIENT_NORM = 0.1
"""How far bfloat16 may be off: about twice what SmolLM2-135M shows, docs/operate/gpu.md."""
RAGGED = (1, 3)


def load(folder: Path, facts: BaseFacts, dtype: torch.dtype) -> ResidentBase:
    return ResidentBase(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), facts)


def rows_of(seed: int, count: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)

    def tokens(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 264, (length,), generator=generator).tolist())

    prompt = tokens(9)
    return [Row(prompt=prompt, tokens=tokens(5 + n), logprobs=(), advantage=1.0) for n in range(count)]


def learn(base: ResidentBase, lines: Sequence[Line], policies: Sequence[LoraTensors]) -> torch.Tensor:
    """Return the log-probabilities; the gradient of the sum of their squares is added to the leaves."""
    logprobs_T = base.score(lines, policies).logprobs_T  # noqa: N806  # T = target tokens
    logprobs_T.square().sum().backward()
    return logprobs_T.detach()


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
@pytest.mark.parametrize("max_length", [0, 64], ids=["alone", "behind one prompt"])
def test_a_bfloat16_base_is_near_peft_in_bfloat16(name: str, max_length: int, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    base = load(tmp_path, facts, torch.bfloat16)
    spec = everything(facts)
    policy = with_random_b(new_lora(facts, spec), std=0.05)
    rows = rows_of(0, 3)
    lines = pack_rows(rows, policy=0, max_length=max_length)
    ours = learn(base, lines, [policy])
    assert ours.dtype == policy.leaf.grad.dtype == torch.float32
    twin = peft_twin(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16), spec, policy)
    theirs = torch.cat([row_logprobs(twin, row).float() for line in lines for row in line.rows])
    assert torch.allclose(ours, theirs.detach(), atol=LOGPROBS, rtol=0)
    theirs.square().sum().backward()
    grads = {name.replace(".default", ""): one.grad for name, one in twin.named_parameters()}
    flat = torch.cat([grads[name].float().flatten() for name, _ in gradients_of(policy)])
    own = torch.cat([gradient.flatten() for _, gradient in gradients_of(policy)])
    assert float((own - flat).norm() / flat.norm()) < GRADIENT_NORM


def test_routed_experts_are_near_transformers_in_bfloat16(tmp_path: Path) -> None:
    """A router of bfloat16 may take another expert: single tokens differ, their mean does not."""
    facts = describe_family("DeepseekV3", tmp_path)
    lines = pack_rows(rows_of(0, 3), policy=0, max_length=0)
    ours = load(tmp_path, facts, torch.bfloat16).score(lines).logprobs_T
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        theirs = torch.cat([row_logprobs(plain, row).float() for line in lines for row in line.rows])
    assert float((ours - theirs).abs().mean()) < LOGPROBS


@pytest.mark.parametrize("counts", [(2, 2), RAGGED], ids=["equally many", "ragged"])
def test_in_bfloat16_a_policy_learns_beside_others_as_alone(counts: tuple[int, ...], tmp_path: Path) -> None:
    facts = describe_family("Qwen3", tmp_path)
    base = load(tmp_path, facts, torch.bfloat16)

    def policies() -> list[LoraTensors]:
        return [
            with_random_b(new_lora(facts, everything(facts, seed=seed)), std=0.05)
            for seed in range(len(counts))
        ]

    together, alone = policies(), policies()
    batches = [rows_of(seed, count) for seed, count in enumerate(counts)]
    lines = [
        line for number, rows in enumerate(batches) for line in pack_rows(rows, policy=number, max_length=0)
    ]
    whole = learn(base, lines, together)
    parts = [
        learn(base, pack_rows(rows, policy=0, max_length=0), [policy])
        for rows, policy in zip(batches, alone, strict=True)
    ]
    assert torch.allclose(whole, torch.cat(parts), atol=LOGPROBS, rtol=0)
    for one, other in zip(together, alone, strict=True):
        difference = (one.leaf.grad - other.leaf.grad).norm() / other.leaf.grad.norm()
        assert float(difference) < GRADIENT_NORM / 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe"])
@pytest.mark.parametrize("counts", [(4,), (2, 2), RAGGED], ids=["one policy", "two", "ragged"])
def test_layers_computed_again_give_the_same_bits(
    dtype: torch.dtype, name: str, counts: tuple[int, ...], tmp_path: Path
) -> None:
    facts = describe_family(name, tmp_path)
    rows = sampled_rows(make_family(name), layers=len(facts.experts)) if facts.experts else rows_of(0, 4)
    lines, begin = [], 0
    for number, count in enumerate(counts):
        lines += pack_rows(rows[begin : begin + count], policy=number, max_length=64)
        begin += count
    found = []
    for again in (False, True):
        base = load(tmp_path, facts, dtype)
        if again:
            base.checkpoint_layers()
        policies = [
            with_random_b(new_lora(facts, everything(facts, seed=seed)), std=0.05)
            for seed in range(len(counts))
        ]
        logprobs = learn(base, lines, policies)
        assert all(slot.mix is None for slot in base.slots)
        found.append([logprobs, *(policy.leaf.grad for policy in policies)])
    for kept, recomputed in zip(*found, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.parametrize("name", ["Llama", "Qwen3Moe"])
def test_only_a_long_line_is_computed_again_on_a_cpu_to_the_same_bits(name: str, tmp_path: Path) -> None:
    facts = describe_family(name, tmp_path)
    rows = sampled_rows(make_family(name), layers=len(facts.experts)) if facts.experts else rows_of(0, 3)
    (line,) = pack_rows(rows[:1], policy=0, max_length=0)
    found = {}
    for kept_tokens in (None, line.length, line.length - 1):
        base = load(tmp_path, facts, torch.float32)
        if kept_tokens is not None:
            base.checkpoint_long_lines()
            base.kept_tokens = kept_tokens
        policy = with_random_b(new_lora(facts, everything(facts)), std=0.05)
        kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            scored = base.score([line], [policy])
        scored.logprobs_T.sum().backward()
        found[kept_tokens] = (scored.logprobs_T.detach(), policy.leaf.grad, kept)
    whole, short, long = found.values()
    assert torch.equal(whole[0], short[0])
    assert torch.equal(whole[1], short[1])
    assert torch.equal(whole[0], long[0])
    assert torch.equal(whole[1], long[1])
    assert long[2] < short[2] / 2 == whole[2] / 2


def test_only_layers_that_learn_are_kept_small(tmp_path: Path) -> None:
    """What autograd keeps for the backward pass shrinks by more than half."""
    facts = describe_family("Llama", tmp_path)

    def kept_bytes(base: ResidentBase) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        policy = with_random_b(new_lora(facts, everything(facts)))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            base.score(pack_rows(rows_of(0, 8), policy=0, max_length=0), [policy])
        return sum(kept.values())

    base = load(tmp_path, facts, torch.float32)
    whole = kept_bytes(base)
    base.checkpoint_layers()
    assert kept_bytes(base) < whole / 2


def test_layers_are_computed_again_where_a_context_would_not_fit() -> None:
    def again(chosen: Checkpointing, *, free_bytes: int | None) -> bool:
        numbers = TokenNumbers(read=1000, written=1000, layers=4, width=100)
        return recomputes(chosen, numbers, item_bytes=2, context=4096, free_bytes=free_bytes)

    assert again("auto", free_bytes=1 << 20)
    assert not again("auto", free_bytes=1 << 40)
    assert not again("auto", free_bytes=None), "on the CPU"
    assert again("on", free_bytes=None)
    assert not again("off", free_bytes=1)


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_a_narrow_head_with_a_wide_product_is_as_its_float32_copy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = describe_family(name, tmp_path)
    rows = pack_rows(rows_of(0, 3), policy=0, max_length=64)
    gradients, scores = [], []
    for is_wide in (False, True):
        monkeypatch.setattr(target_scores, "has_wide_product", lambda _device, is_wide=is_wide: is_wide)
        monkeypatch.setattr(target_scores, "wide_product", lambda x, weight: x.float() @ weight.float().T)
        base = load(tmp_path, facts, torch.bfloat16)
        assert (base.target_scores.head.weight.dtype == torch.bfloat16) is is_wide
        policy = with_random_b(new_lora(facts, everything(facts)), std=0.05)
        scores.append(learn(base, rows, [policy]))
        gradients.append(policy.leaf.grad)
    assert torch.allclose(*scores, atol=1e-5, rtol=0)
    assert (gradients[0] - gradients[1]).norm() < GRADIENT_NORM / 5 * gradients[0].norm()


def test_updates_of_experts_in_bfloat16_are_near_those_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = describe_family("Qwen3Moe", tmp_path)
    base = load(tmp_path, facts, torch.bfloat16)
    batches = [
        sampled_rows(make_family("Qwen3Moe"), layers=len(facts.experts), seed=seed)[: 2 + seed]
        for seed in range(2)
    ]
    lines = [line for at, rows in enumerate(batches) for line in pack_rows(rows, policy=at, max_length=0)]
    found = []
    for is_narrow in (False, True):
        monkeypatch.setattr(experts, "updates_in_base_dtype", lambda _device, is_narrow=is_narrow: is_narrow)
        policies = [with_random_b(new_lora(facts, everything(facts, rank=4)), std=0.05) for _ in batches]
        found.append((learn(base, lines, policies), torch.cat([one.leaf.grad for one in policies])))
    (wide_T, wide), (narrow_T, narrow) = found  # noqa: N806  # T = target tokens
    assert narrow.dtype == torch.float32
    assert not torch.equal(wide_T, narrow_T)
    assert torch.allclose(wide_T, narrow_T, atol=LOGPROBS, rtol=0)
    assert (wide - narrow).norm() < GRADIENT_NORM * wide.norm()


def test_places_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def placed(device: str, *, process: ProcessRank = ALONE) -> Placement:
        return place(device=device, dtype="auto", checkpointing="auto", memory_share=None, process=process)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert placed("auto") == placed("cpu") == ON_CPU
    with pytest.raises(SettingInvalid, match=r"MINT_TRAINER_DEVICE.*cuda:1.*sees no GPU"):
        placed("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert placed("auto") == Placement(dtype="bfloat16", device_type="cuda")
    assert placed("cuda:1").device == "cuda:1"
    with pytest.raises(SettingInvalid, match="2 GPUs here"):
        placed("cuda:2")
    with pytest.raises(SettingInvalid, match="a GPU of its own"):
        placed("cuda:1", process=ProcessRank(count=2))
