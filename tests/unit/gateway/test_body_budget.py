"""The memory for bodies: bounded over all, and nobody is kept out of it."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.body_budget import BodiesFull, BodyBudget
from mint_common.ids import TenantId

ANN, BEN = TenantId("ann"), TenantId("ben")
LIMIT, KEY = 1000, 300


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 1), st.integers(0, 400), st.booleans())))
def test_the_bound_holds_and_a_newcomer_finds_half_of_what_is_free(
    steps: list[tuple[str, int, int, bool]],
) -> None:
    budget, held = BodyBudget(limit_bytes=LIMIT, key_bytes=KEY), list[tuple[str, str, int]]()
    for name, number, size, gives_back in steps:
        if gives_back and held:
            tenant, key, given_back = held.pop()
            budget.release(TenantId(tenant), key, given_back)
            continue
        key = f"{name}-{number}"
        by_tenant, by_key = Counter[str](), Counter[str]()
        for tenant, of_key, of_size in held:
            by_tenant[tenant] += of_size
            by_key[of_key] += of_size
        fits = by_tenant[name] + size <= LIMIT - by_tenant.total() - size and by_key[key] + size <= KEY
        try:
            budget.hold(TenantId(name), key, size)
        except BodiesFull:
            assert not fits
        else:
            assert fits
            held.append((name, key, size))
        assert budget.held_bytes == sum(size for _, _, size in held) <= LIMIT
    budget.check_room(TenantId("new"), "new", min(KEY, (LIMIT - budget.held_bytes) // 2))


def test_one_tenant_leaves_half_of_all_to_others_however_many_keys_it_has() -> None:
    budget = BodyBudget(limit_bytes=LIMIT, key_bytes=KEY)
    for key in ("a", "b"):
        budget.hold(ANN, key, 250)
    with pytest.raises(BodiesFull) as refused:
        budget.hold(ANN, "c", 1)
    assert refused.value.http_status == 429
    assert refused.value.retryable
    budget.hold(BEN, "d", 250)


def test_what_is_refused_counts_for_nothing_and_what_is_released_is_free() -> None:
    budget = BodyBudget(limit_bytes=LIMIT, key_bytes=KEY)
    with pytest.raises(BodiesFull):
        budget.hold(ANN, "a", KEY + 1)
    assert budget.held_bytes == 0
    budget.hold(ANN, "a", KEY)
    budget.release(ANN, "a", KEY)
    budget.hold(ANN, "a", KEY)
