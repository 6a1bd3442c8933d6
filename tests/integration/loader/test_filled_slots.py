"""A slot filled by one call is as vLLM would have left it."""

from itertools import product
from typing import Any

import pytest

from tests.integration.loader.test_rank_part import (
    _BUFFERS,
    EXPERTS,
    IN,
    MAX_RANK,
    OUT,
    Weights,
    _slots,
    _wrapper,
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")

HEIGHTS = {"MergedColumnParallel": (OUT, OUT), "MergedQKVParallel": (OUT, 2, 2)}


def weights(kind: str, rank: int, *, seed: int, without: int | None = None) -> Weights:
    """Return an adapter of such a layer; ``without`` a slice, if it has several."""
    draw = torch.Generator().manual_seed(seed)

    def matrix(*shape: int) -> Any:
        return torch.randn(*shape, generator=draw)

    if kind == "moe":
        widths = (IN, OUT), (OUT, IN), (IN, OUT)
        return Weights(
            [matrix(EXPERTS, rank, width) for width, _ in widths],
            [matrix(EXPERTS, height, rank) for _, height in widths],
        )
    if kind not in HEIGHTS:
        return Weights(matrix(rank, IN), matrix(OUT, rank))
    made = Weights(
        [matrix(rank, IN) for _ in HEIGHTS[kind]], [matrix(height, rank) for height in HEIGHTS[kind]]
    )
    if without is not None:
        made.lora_a[without] = made.lora_b[without] = None
    return made


def agree(one: Any, other: Any) -> bool:
    enabled = [getattr(each, "adapter_enabled", torch.zeros(1)) for each in (one, other)]
    return torch.equal(*enabled) and all(
        torch.equal(*each) for each in zip(_slots(one), _slots(other), strict=True)
    )


class Pair:
    """A wrapper that we fill, and one that vLLM alone does."""

    def __init__(self, kind: str) -> None:
        self.ours, self.stock = (_wrapper(kind, workers=1, worker=0) for _ in range(2))

    def set(self, index: int, layer: Weights) -> None:
        from services.loader.adapters.vllm.rank_part import set_lora

        set_lora(self.ours, index, layer)
        self.stock.set_lora(index, layer.lora_a, layer.lora_b)
        assert agree(self.ours, self.stock)


@pytest.mark.parametrize("kind", _BUFFERS)
def test_any_order_of_shapes_leaves_what_vllm_leaves(kind: str) -> None:
    shapes = [
        (rank, without) for rank in (1, MAX_RANK) for without in ((None, 1) if kind in HEIGHTS else (None,))
    ]
    for order in product(shapes, repeat=4):
        pair = Pair(kind)
        for seed, (rank, without) in enumerate(order):
            pair.set(seed % 2, weights(kind, rank, seed=seed, without=without))


@pytest.mark.parametrize("kind", _BUFFERS)
def test_the_same_shapes_are_copied_without_vllm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When this fails on `stock` alone, vLLM fills slots otherwise by itself, and `filled_slots` may go."""
    from services.loader.adapters.vllm.rank_part import set_lora

    module = _wrapper(kind, workers=1, worker=0)
    cleared: list[int] = []
    clear = module.reset_lora
    module.reset_lora = lambda index: (cleared.append(index), clear(index))[1]
    layer = weights(kind, 2, seed=0)
    module.set_lora(0, layer.lora_a, layer.lora_b)
    assert cleared == [0], "stock: it clears what it overwrites"
    set_lora(module, 0, layer)
    monkeypatch.setattr(type(module), "set_lora", lambda *_: pytest.fail("vLLM's own way"))
    set_lora(module, 0, weights(kind, 2, seed=1))


@pytest.mark.parametrize("kind", _BUFFERS)
def test_what_vllm_writes_or_clears_in_between_is_not_built_upon(kind: str) -> None:
    other = weights(kind, MAX_RANK, seed=9)
    for between in (
        lambda it: it.reset_lora(0),
        lambda it: it.set_lora(0, other.lora_a, other.lora_b),
    ):
        pair = Pair(kind)
        pair.set(0, weights(kind, 2, seed=1))
        for module in (pair.ours, pair.stock):
            between(module)
        pair.set(0, weights(kind, 2, seed=2))


@pytest.mark.parametrize("kind", _BUFFERS)
def test_a_fill_that_failed_leaves_the_slot_unknown(kind: str) -> None:
    from services.loader.adapters.vllm.rank_part import set_lora

    pair = Pair(kind)
    pair.set(0, weights(kind, 2, seed=1))
    with pytest.raises(RuntimeError):
        set_lora(pair.ours, 0, weights(kind, MAX_RANK + 1, seed=2))
    pair.set(0, weights(kind, 2, seed=3))


def test_on_an_untested_vllm_slots_are_filled_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.loader.adapters.vllm.repairs import filled_slots

    monkeypatch.setattr(filled_slots, "is_tested", lambda _: False)
    pair = Pair("RowParallel")
    for seed in range(3):
        pair.set(0, weights("RowParallel", 2, seed=seed))
    assert not pair.ours.__dict__.get("_mint_filled_slots")
