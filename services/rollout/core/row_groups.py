"""Rendered rows as the groups of a rollout record."""

from collections.abc import Sequence

from mint_common.datasets import RenderedExample, RenderedRow, RowProblem
from mint_common.records import Group, Sample, trained_count


def groups_of(row: RenderedRow) -> list[Group]:
    """Return the groups to train on for a row without sampling. Raises RowProblem.

    A pair is one group of the chosen answer, reward 1, and the rejected one, reward 0. Any other example is a
    group of one sample, of reward 1 unless its row is labelled as unwanted: 0.
    """
    if any(example.side == "chosen" for example in row.examples):
        return [_pair(row)]
    reward = 0.0 if row.label is False else 1.0
    groups = [_alone(example, reward) for example in row.examples if _start(example) < _end(example)]
    if not groups:
        raise RowProblem("nothing_trained", "no token of it can be predicted: the first one never is")
    return groups


def prompt_of(row: RenderedRow) -> tuple[int, ...]:
    """Return the tokens that a row's answers are sampled after."""
    (example,) = row.examples
    return example.tokens


def trained_tokens(groups: Sequence[Group]) -> int:
    """Return on how many tokens of the groups a loss falls."""
    return sum(trained_count(sample.tokens, sample.trained) for group in groups for sample in group.samples)


def _alone(example: RenderedExample, reward: float) -> Group:
    start = _start(example)
    return Group(prompt_tokens=example.tokens[:start], samples=(_sample(example, start, reward),))


def _pair(row: RenderedRow) -> Group:
    chosen = [example for example in row.examples if example.side == "chosen"]
    rejected = [example for example in row.examples if example.side == "rejected"]
    if len(chosen) != 1 or len(rejected) != 1:
        problem = "an output has several turns, which the base's chat template renders apart: a pair has one"
        raise RowProblem("several_examples", problem)
    (good,), (bad,) = chosen, rejected
    start = min(_shared(good.tokens, bad.tokens), _start(good), _start(bad))
    if not start:
        raise RowProblem("no_prompt", "the answers of a pair must follow a prompt of one token at least")
    samples = (_sample(good, start, 1.0), _sample(bad, start, 0.0))
    return Group(prompt_tokens=good.tokens[:start], samples=samples)


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens both begin with."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _start(example: RenderedExample) -> int:
    """Return where the trained tokens begin; the first token of a sequence is never predicted."""
    return next((max(1, begin) for begin, end in example.trained if end > 1), len(example.tokens))


def _end(example: RenderedExample) -> int:
    return example.trained[-1][1]


def _sample(example: RenderedExample, start: int, reward: float) -> Sample:
    """Return the tokens from ``start`` on to the last trained one."""
    tokens = example.tokens[start : _end(example)]
    ranges = tuple((max(begin, start) - start, end - start) for begin, end in example.trained if end > start)
    trained = () if ranges == ((0, len(tokens)),) else ranges
    return Sample(tokens=tokens, logprobs=(), reward=reward, text="", trained=trained)
