"""A slot of experts is as vLLM would have left it, and cleared no more than needed."""

from itertools import pairwise, product
from typing import Any

import pytest

from tests.integration.loader.test_rank_part import EXPERTS, IN, MAX_RANK, OUT, Weights, _slots, _wrapper

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's, when vLLM's modules are imported
]

torch = pytest.importorskip("torch")


def weights(rank: int, *, seed: int) -> Weights:
    """Return an adapter of all three projections."""
    draw = torch.Generator().manual_seed(seed)
    widths = (IN, OUT), (OUT, IN), (IN, OUT)
    return Weights(
        [torch.randn(EXPERTS, rank, width, generator=draw) for width, _ in widths],
        [torch.randn(EXPERTS, height, rank, generator=draw) for _, height in widths],
    )


def moe() -> Any:
    return _wrapper("moe", workers=1, worker=0)


def agree(one: Any, other: Any) -> bool:
    slots = zip(_slots(one), _slots(other), strict=True)
    return all(torch.equal(*each) for each in slots) and torch.equal(
        one.adapter_enabled, other.adapter_enabled
    )


def test_any_order_of_ranks_leaves_what_vllm_leaves() -> None:
    from services.loader.adapters.vllm.rank_part import set_lora

    for ranks in product((1, 3, MAX_RANK), repeat=3):
        ours, stock = moe(), moe()
        for seed, rank in enumerate(ranks):
            layer = weights(rank, seed=seed)
            set_lora(ours, 0, layer)
            stock.set_lora(0, layer.lora_a, layer.lora_b)
            assert agree(ours, stock)


def test_what_vllm_itself_writes_or_clears_in_between_is_not_built_upon() -> None:
    from services.loader.adapters.vllm.rank_part import set_lora

    big, small = weights(MAX_RANK, seed=1), weights(1, seed=2)
    for between in (lambda it: it.reset_lora(0), lambda it: it.set_lora(0, big.lora_a, big.lora_b)):
        ours, stock = moe(), moe()
        set_lora(ours, 0, small)
        stock.set_lora(0, small.lora_a, small.lora_b)
        for module in (ours, stock):
            between(module)
        set_lora(ours, 0, small)
        stock.set_lora(0, small.lora_a, small.lora_b)
        assert agree(ours, stock)


def test_a_copy_that_failed_leaves_the_slot_unknown() -> None:
    from services.loader.adapters.vllm.rank_part import set_lora

    ours, stock = moe(), moe()
    set_lora(ours, 0, weights(1, seed=1))
    with pytest.raises(RuntimeError):
        set_lora(ours, 0, weights(MAX_RANK + 1, seed=2))
    layer = weights(2, seed=3)
    set_lora(ours, 0, layer)
    stock.set_lora(0, layer.lora_a, layer.lora_b)
    assert agree(ours, stock)


def test_nothing_is_cleared_where_the_next_adapter_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.loader.adapters.vllm.rank_part import set_lora
    from services.loader.adapters.vllm.repairs import expert_slots

    cleared: list[range] = []
    clear = expert_slots._clear
    monkeypatch.setattr(
        expert_slots, "_clear", lambda *at, ranks: (cleared.append(ranks), clear(*at, ranks=ranks))[1]
    )
    ours, order = moe(), (2, 2, 3, 1)
    for seed, rank in enumerate(order):
        set_lora(ours, 0, weights(rank, seed=seed))
    # One of the same shapes is copied over the last: that comes from `filled_slots`, and clears nothing.
    assert cleared == [range(rank, last) for last, rank in pairwise(order) if rank != last]


def test_vllm_itself_still_clears_all_of_a_slot() -> None:
    """When this fails, vLLM clears less by itself, and `expert_slots` may go."""
    module, layer = moe(), weights(MAX_RANK, seed=1)
    cleared: list[int] = []
    clear = module.reset_lora
    module.reset_lora = lambda index: (cleared.append(index), clear(index))[1]
    module.set_lora(0, layer.lora_a, layer.lora_b)
    assert cleared == [0], "though the adapter overwrites every number of it"


def test_on_an_untested_vllm_slots_are_cleared_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from services.loader.adapters.vllm.rank_part import set_lora
    from services.loader.adapters.vllm.repairs import expert_slots

    monkeypatch.setattr(expert_slots, "is_tested", lambda _: False)
    monkeypatch.setattr(expert_slots, "_clear", lambda *_, **__: pytest.fail("ours"))
    module = moe()
    for seed in range(2):
        set_lora(module, 0, weights(2, seed=seed))
