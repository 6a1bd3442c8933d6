"""Passes that only measure, cut into runs: between two of them the trainer serves other policies."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from services.trainer.core.algorithms import WaveBatch
from services.trainer.core.batch import Row


def measuring_runs(work: WaveBatch, *, max_tokens: int) -> Iterator[WaveBatch]:
    """Yield the parts of a pass that only measures, each of at most so many tokens, or of a single row.

    What a part counts is divided by the trained tokens of the whole pass, so that the parts add up to it.
    """
    assert not work.backward, work
    begun: list[Row] = []
    tokens = 0
    for row in (*work.batch.rows, *work.batch.mismatched):
        if begun and tokens + row.length > max_tokens:
            yield _run(work, begun)
            begun, tokens = [], 0
        begun.append(row)
        tokens += row.length
    yield _run(work, begun)


def _run(work: WaveBatch, begun: Sequence[Row]) -> WaveBatch:
    """Return a part of a pass, given rows of which the mismatched ones come last."""
    answers = len([row for row in begun if row.advantage])
    rows, mismatched = tuple(begun[:answers]), tuple(begun[answers:])
    return replace(work, batch=replace(work.batch, rows=rows, mismatched=mismatched))
