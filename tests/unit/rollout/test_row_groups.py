"""Rendered rows as groups: the same tokens, with the loss on the same ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.datasets import RenderedExample, RenderedRow, RowProblem
from mint_common.datasets.rendered import Side
from mint_common.records import Group, Sample
from services.rollout.core.row_groups import groups_of, prompt_of, trained_tokens


@st.composite
def examples(draw: st.DrawFn, side: Side = "answer") -> RenderedExample:
    """Return a sequence of several turns, the last one trained."""
    tokens = draw(st.lists(st.integers(0, 9), min_size=2, max_size=30))
    edges = draw(st.lists(st.integers(0, len(tokens)), min_size=2, max_size=6, unique=True).map(sorted))
    trained = tuple(zip(edges[::2], edges[1::2], strict=False))
    if trained[-1][1] < 2:  # only the first token, which is never predicted
        trained = ((0, 2),)
    return RenderedExample(side=side, tokens=tuple(tokens), trained=trained)


def predicted(example: RenderedExample) -> set[int]:
    """Return the places that a loss falls on."""
    return {place for begin, end in example.trained for place in range(begin, end)} - {0}


def placed(group: Group, sample: Sample) -> tuple[tuple[int, ...], set[int]]:
    """Return the sequence of a sample and the places that a loss falls on."""
    start = len(group.prompt_tokens)
    ranges = sample.trained or ((0, len(sample.tokens)),)
    places = {start + place for begin, end in ranges for place in range(begin, end)}
    return (*group.prompt_tokens, *sample.tokens), places


@given(rendered=st.lists(examples(), min_size=1, max_size=4))
def test_an_answer_is_trained_where_it_was_rendered(rendered: list[RenderedExample]) -> None:
    row = RenderedRow(line=1, examples=tuple(rendered))
    groups = groups_of(row)
    assert len(groups) == len(rendered)
    for group, example in zip(groups, rendered, strict=True):
        (sample,) = group.samples
        tokens, places = placed(group, sample)
        assert tokens == example.tokens[: len(tokens)]
        assert places == predicted(example)
        assert max(places) == len(tokens) - 1
        assert min(places) == len(group.prompt_tokens)
        assert (sample.logprobs, sample.reward) == ((), 1.0)
    assert trained_tokens(groups) == sum(len(predicted(example)) for example in rendered)


@given(chosen=examples("chosen"), rejected=examples("rejected"), prompt=st.lists(st.integers(0, 9)))
def test_a_pair_shares_its_prompt(
    chosen: RenderedExample, rejected: RenderedExample, prompt: list[int]
) -> None:
    both = [
        RenderedExample(
            side=each.side,
            tokens=(7, *prompt, *each.tokens),
            trained=tuple((begin + 1 + len(prompt), end + 1 + len(prompt)) for begin, end in each.trained),
        )
        for each in (chosen, rejected)
    ]
    (group,) = groups_of(RenderedRow(line=1, examples=tuple(both)))
    assert [sample.reward for sample in group.samples] == [1.0, 0.0]
    assert len(group.prompt_tokens) > len(prompt)
    for sample, example in zip(group.samples, both, strict=True):
        tokens, places = placed(group, sample)
        assert tokens == example.tokens[: len(tokens)]
        assert places == predicted(example)


@pytest.mark.parametrize(("label", "reward"), [(True, 1.0), (False, 0.0)])
def test_a_kto_row_has_the_reward_of_its_label(label: bool, reward: float) -> None:
    example = RenderedExample(side="answer", tokens=(1, 2, 3), trained=((1, 3),))
    (group,) = groups_of(RenderedRow(line=1, examples=(example,), label=label))
    assert group == Group(
        prompt_tokens=(1,), samples=(Sample(tokens=(2, 3), logprobs=(), reward=reward, text=""),)
    )


def test_pairs_that_cannot_be_compared_are_refused() -> None:
    chosen = RenderedExample(side="chosen", tokens=(1, 2), trained=((0, 2),))
    rejected = RenderedExample(side="rejected", tokens=(3, 4), trained=((0, 2),))
    with pytest.raises(RowProblem) as refused:
        groups_of(RenderedRow(line=1, examples=(chosen, rejected)))
    assert refused.value.code == "no_prompt"
    with pytest.raises(RowProblem) as refused:
        groups_of(RenderedRow(line=1, examples=(chosen, chosen, rejected)))
    assert refused.value.code == "several_examples"


def test_a_prompt_is_sampled_after() -> None:
    example = RenderedExample(side="prompt", tokens=(1, 2), trained=())
    assert prompt_of(RenderedRow(line=1, examples=(example,))) == (1, 2)


@pytest.mark.parametrize("label", [None, True])
def test_a_row_of_which_no_token_is_predicted_is_refused(label: bool | None) -> None:
    example = RenderedExample(side="answer", tokens=(1,), trained=((0, 1),))
    with pytest.raises(RowProblem) as found:
        groups_of(RenderedRow(line=1, examples=(example,), label=label))
    assert found.value.code == "nothing_trained"
