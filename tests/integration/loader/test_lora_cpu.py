"""The LoRA of a step on CPU equals vLLM's own operations, however its tokens are spread over adapters."""

import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.loader.adapters.vllm_cpu.bare_rows import ignore_rows_without_adapter

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")

SLOTS = 12
NARROW, WIDE = (4, 24, (16, 8, 8)), (16, 512, (128, 64, 64))  # rank, width, widths of the slices
Sizes = tuple[int, int, tuple[int, ...]]
STEPS = {
    "nobody has one": [0, 0, 0],
    "one token": [3],
    "one prompt": [3] * 30,
    "prompts, tokens and the bare base": [3] * 9 + [0] * 5 + [4] * 7 + [5, 0, 6],
    "a token of each": list(range(1, SLOTS + 1)),
    "a token of each, and of the bare base": [0, *range(1, SLOTS + 1), 0, 0],
    "a few, interleaved": [1, 2, 3] * 8,
    "many prompts": [number for number in range(1, SLOTS + 1) for _ in range(7)],
    "many, interleaved": list(range(1, SLOTS + 1)) * 4,
}


def _mapping(numbers: Sequence[int]) -> SimpleNamespace:
    return SimpleNamespace(index_mapping=tuple(numbers), prompt_mapping=tuple(numbers), is_prefill=True)


def _wrappers() -> tuple[Any, Any]:
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    from services.loader.adapters.vllm_cpu.grouped_lora import GroupedLora

    ignore_rows_without_adapter()
    return PunicaWrapperCPU(512, 512, "cpu"), GroupedLora(512, 512, "cpu")


def _layer(
    sizes: Sizes, generator: "torch.Generator", dtype: "torch.dtype"
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    rank, width, widths = sizes
    lora_a = tuple(
        (torch.randn(SLOTS, 1, rank, width, generator=generator) / width**0.5).to(dtype) for _ in widths
    )
    return lora_a, tuple(torch.randn(SLOTS, 1, out, rank, generator=generator).to(dtype) for out in widths)


@pytest.mark.parametrize("sizes", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("numbers", STEPS.values(), ids=STEPS)
def test_a_step_equals_vllms_own(numbers: list[int], sizes: Sizes) -> None:
    _compare(numbers, dtype=torch.float32, tolerance=1e-5, sizes=sizes)


def test_another_dtype_than_float32_equals_vllms_own() -> None:
    for numbers in STEPS.values():
        _compare(numbers, dtype=torch.bfloat16, tolerance=0.3)


def test_any_spread_of_tokens_equals_vllms_own() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lengths = [rng.choice((1, 1, 1, 2, 9)) for _ in range(rng.randint(1, 30))]
        _compare(
            [number for length in lengths for number in [rng.randint(0, SLOTS)] * length],
            dtype=torch.float32,
            tolerance=1e-5,
        )


def test_a_slot_filled_anew_is_multiplied_with_what_is_in_it_now() -> None:
    _, grouped = _wrappers()
    layer = _layer(NARROW, torch.Generator().manual_seed(0), torch.float32)
    grouped.update_metadata(_mapping([1]), [1] + [None] * (SLOTS - 1), SLOTS, 100)
    x = torch.ones(1, NARROW[1])
    results = []
    for factor in (1.0, 2.0):
        for b in layer[1]:
            b[0].mul_(factor)
        results.append(torch.zeros(1, sum(NARROW[2])))
        grouped.add_lora_linear(results[-1], x, *layer, 1.0, NARROW[2])
    assert torch.equal(2 * results[0], results[1])


def test_tokens_of_a_slot_are_gathered_wherever_they_stand() -> None:
    from services.loader.adapters.vllm_cpu.grouped_lora import plan_groups

    together, apart = plan_groups([-1, 2, 2, 0, -1, 0])
    assert (together.slot, together.rows) == (2, slice(1, 3))
    assert apart.slot == 0
    assert torch.equal(torch.as_tensor(apart.rows), torch.tensor([3, 5]))


def test_many_small_adapters_share_a_product() -> None:
    from services.loader.adapters.vllm_cpu.grouped_lora import are_batched

    small, large = torch.empty(2, 1, 8, 64), torch.empty(2, 1, 32, 576)
    assert are_batched(small, rows=32, groups=32)
    assert not are_batched(small, rows=4, groups=1)
    assert not are_batched(large, rows=32, groups=32)


def test_a_token_gets_the_same_whoever_shares_its_step() -> None:
    _, grouped = _wrappers()
    generator = torch.Generator().manual_seed(0)
    width, widths = 128, (128, 64)
    lora_a, lora_b = _layer((16, width, widths), generator, torch.float32)
    x = torch.randn(64, width, generator=generator)
    numbers = [1] * 20 + [2, 3, 3, 1, 1, 4, 5, 6] + [7] * 16 + [8] * 15 + [1, 0, 2, 9, 9]

    def run(rows: list[int]) -> "torch.Tensor":
        grouped.update_metadata(_mapping([numbers[at] for at in rows]), list(range(1, 13)), SLOTS, 100)
        y = torch.zeros(len(rows), sum(widths))
        grouped.add_lora_linear(y, x[rows], lora_a, lora_b, 1.0, widths)
        return y

    from services.loader.adapters.vllm_cpu.grouped_lora import adds_up_alike

    is_intel = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    assert adds_up_alike() or not is_intel
    together = run(list(range(64)))
    for rows in (
        [0],
        [20],
        [21, 22],
        list(range(20)),
        list(range(3, 20)),
        [23, 24, 25],
        [44, 3, 9],
        [62, 63],
    ):
        alone = run(rows)
        torch.testing.assert_close(alone, together[rows], rtol=1e-5, atol=1e-4)
        if is_intel:
            assert torch.equal(alone, together[rows]), rows


def _compare(numbers: list[int], *, dtype: "torch.dtype", tolerance: float, sizes: Sizes = NARROW) -> None:
    generator = torch.Generator().manual_seed(1)
    slots = list(range(SLOTS, 0, -1))  # adapter 1 is in the last
    layer = _layer(sizes, generator, dtype)
    x = torch.randn(len(numbers), sizes[1], generator=generator).to(dtype)
    before = torch.randn(len(numbers), sum(sizes[2]), generator=generator).to(dtype)
    results = []
    for wrapper in _wrappers():
        wrapper.update_metadata(_mapping(numbers), slots, SLOTS, 100)
        y = before.clone()
        wrapper.add_lora_linear(y, x, *layer, 1.0, sizes[2])
        results.append(y)
    assert torch.allclose(*results, atol=tolerance, rtol=tolerance)
    bare = [at for at, number in enumerate(numbers) if number == 0]
    assert torch.equal(results[1][bare], before[bare])
