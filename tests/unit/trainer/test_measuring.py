"""Passes that only measure, cut into runs."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.core.algorithms import WaveBatch, measuring_runs
from services.trainer.core.batch import Batch, Row


def row(length: int, advantage: float) -> Row:
    return Row(prompt=(1,), tokens=(2,) * length, logprobs=(), advantage=advantage)


lengths = st.lists(st.integers(1, 20), min_size=1, max_size=12)


@given(lengths, st.booleans(), st.integers(1, 40))
def test_runs_have_every_row_once_in_order_and_are_within_the_limit(
    lengths: list[int], has_mismatched: bool, max_tokens: int
) -> None:
    rows = tuple(row(length, 1.0) for length in lengths)
    mismatched = tuple(row(length, 0.0) for length in lengths) if has_mismatched else ()
    batch = Batch(
        rows=rows, probe=(), total_tokens=77, skipped_groups=0, reward_mean=1.0, mismatched=mismatched
    )
    work = WaveBatch(algorithm="kto", config={"beta": 0.1}, batch=batch, backward=False, is_file=True)
    runs = list(measuring_runs(work, max_tokens=max_tokens))
    found = [each for run in runs for each in (*run.batch.rows, *run.batch.mismatched)]
    assert found == [*rows, *mismatched]
    for run in runs:
        parts = (*run.batch.rows, *run.batch.mismatched)
        assert sum(each.length for each in parts) <= max_tokens or len(parts) == 1
        assert (run.batch.total_tokens, run.backward) == (77, False)
