"""Which rows a step draws: every row once an epoch, the same ones however often it is asked."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.rollout.core.row_order import held_out, rows_of_step, shuffled, validation_rows

row_sets = st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True).map(np.array)
seeds = st.integers(0, 2**31 - 1)


@given(rows=row_sets, seed=seeds, epochs=st.integers(1, 4), batch=st.integers(1, 70))
def test_each_epoch_draws_each_row_once(rows: np.ndarray, seed: int, epochs: int, batch: int) -> None:
    steps = -(-len(rows) * epochs // batch)
    drawn = [
        int(row)
        for step in range(1, steps + 1)
        for row in rows_of_step(rows, seed=seed, epochs=epochs, step=step, rows_per_step=batch)
    ]
    assert len(drawn) == len(rows) * epochs
    for epoch in range(epochs):
        assert sorted(drawn[epoch * len(rows) : (epoch + 1) * len(rows)]) == sorted(rows.tolist())


@given(rows=row_sets, seed=seeds, step=st.integers(1, 200), batch=st.integers(1, 70))
def test_a_step_is_never_empty_and_never_too_large(
    rows: np.ndarray, seed: int, step: int, batch: int
) -> None:
    drawn = rows_of_step(rows, seed=seed, epochs=1, step=step, rows_per_step=batch)
    assert 1 <= len(drawn) <= batch
    assert set(drawn.tolist()) <= set(rows.tolist())


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows = np.arange(100)
    orders = {
        tuple(rows_of_step(rows, seed=seed, epochs=3, step=step, rows_per_step=100).tolist())
        for seed in (1, 2)
        for step in (1, 2, 3)
    }
    assert len(orders) == 6
    assert tuple(range(100)) not in orders


def test_the_order_is_the_one_that_jobs_have_begun_with() -> None:
    """A job that was begun by an earlier version goes on with its rows: this never changes."""
    assert shuffled(np.arange(8), 7).tolist() == [4, 1, 6, 3, 2, 7, 5, 0]
    drawn = rows_of_step(np.arange(5), seed=3, epochs=2, step=2, rows_per_step=4)
    assert drawn.tolist() == [3, 1, 3, 4]


@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=80), share=st.floats(0.001, 0.9))
def test_equal_rows_are_held_out_together_and_enough_of_them(keys: list[int], share: float) -> None:
    is_held = held_out(np.array(keys, np.uint64), share)
    held = {key for key, held in zip(keys, is_held, strict=True) if held}
    assert not held & {key for key, held in zip(keys, is_held, strict=True) if not held}
    wanted = max(1, int(share * len(keys)))
    largest = Counter(keys)[max(held)]
    assert wanted <= sum(is_held) < wanted + largest
    assert held == {key for key in keys if key <= max(held)}


@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=80, unique=True), data=st.data())
def test_a_row_is_held_out_by_its_content_not_its_place(keys: list[int], data: st.DataObject) -> None:
    moved = data.draw(st.permutations(keys))
    sides = [
        {key for key, held in zip(order, held_out(np.array(order, np.uint64), 0.3), strict=True) if held}
        for order in (keys, moved)
    ]
    assert sides[0] == sides[1]


@given(rows=row_sets, seed=seeds, most=st.integers(1, 80))
def test_validation_rows_are_some_of_the_rows_by_number(rows: np.ndarray, seed: int, most: int) -> None:
    chosen = validation_rows(rows, seed=seed, most=most).tolist()
    assert len(chosen) == min(most, len(rows))
    assert chosen == sorted(set(chosen) & set(rows.tolist()))


def test_small_validation_sets_are_drawn_from_everywhere() -> None:
    chosen = {int(validation_rows(np.arange(40), seed=seed, most=1)[0]) for seed in range(200)}
    assert len(chosen) > 30
