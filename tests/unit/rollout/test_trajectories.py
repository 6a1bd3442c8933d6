"""Model calls become segments by exact token prefixes."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.records import Episode, trained_ranges
from services.rollout.core.trajectories import ModelCall, Segment, Trajectory, group_of, segments_of

TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple)
OK = Episode(outcome="ok", reward=1.0)


def call(prompt: tuple[int, ...], completion: tuple[int, ...], mark: float = -1.0) -> ModelCall:
    return ModelCall(prompt=prompt, completion=completion, logprobs=(mark,) * len(completion), text="t")


@st.composite
def any_calls(draw: st.DrawFn) -> list[ModelCall]:
    """Return calls of which each continues an earlier one, repeats its prompt, or begins anew.

    The log-probabilities of call i are -(i + 1), so that its tokens are known again.
    """
    calls: list[ModelCall] = []
    for index in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["continue", "retry", "new"])) if calls else "new"
        earlier = draw(st.sampled_from(calls)) if calls else None
        prompt = draw(TOKENS)
        if earlier is not None and kind != "new":
            prompt = earlier.tokens + prompt if kind == "continue" else earlier.prompt
        calls.append(call(prompt, draw(TOKENS), -1.0 - index))
    return calls


@given(any_calls())
def test_each_sampled_token_is_trained_exactly_once_with_its_own_logprob(calls: list[ModelCall]) -> None:
    segments = segments_of(calls)
    trained = [s.logprobs[at] for s in segments for start, end in s.trained for at in range(start, end)]
    assert sorted(trained) == sorted(value for each in calls for value in each.logprobs)
    for segment in segments:
        inside = {at for start, end in segment.trained for at in range(start, end)}
        assert all(v == 0.0 for at, v in enumerate(segment.logprobs) if at not in inside)
        assert len(segment.logprobs) == len(segment.tokens)


@given(any_calls())
def test_a_segment_is_the_prompt_and_completion_of_a_call_and_no_call_is_lost(calls: list[ModelCall]) -> None:
    segments = segments_of(calls)
    ends = [each.tokens for each in calls]
    assert all(segment.tokens in ends for segment in segments)
    for each in calls:
        start, end = len(each.prompt), len(each.tokens)
        assert any(s.tokens[:end] == each.tokens and (start, end) in s.trained for s in segments)


@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=5))
def test_turns_that_continue_each_other_are_one_segment(turns: list[tuple[tuple[int, ...], ...]]) -> None:
    calls, so_far = list[ModelCall](), tuple[int, ...]()
    for delta, completion in turns:
        calls.append(call(so_far + delta, completion))
        so_far = calls[-1].tokens
    (segment,) = segments_of(calls)
    assert segment.tokens == calls[-1].tokens
    assert len(segment.trained) == len(turns)


def test_a_branch_and_a_retry_have_what_was_shared_as_context() -> None:
    first = call((1, 2), (3,))
    again = call((1, 2), (4,))
    on = call((1, 2, 3, 5), (6,))
    branch = call((1, 2, 3, 7), (8,))
    segments = segments_of([first, again, on, branch])
    assert [(each.tokens, each.trained) for each in segments] == [
        ((1, 2, 3, 5, 6), ((2, 3), (4, 5))),
        ((1, 2, 4), ((2, 3),)),
        ((1, 2, 3, 7, 8), ((4, 5),)),
    ]


@given(st.lists(any_calls(), min_size=1, max_size=4))
def test_a_group_has_all_tokens_of_its_segments(episodes: list[list[ModelCall]]) -> None:
    shared = [[call((9, *each.prompt), each.completion) for each in calls] for calls in episodes]
    trajectories = [Trajectory(episode=OK, segments=segments_of(calls)) for calls in shared]
    group = group_of(trajectories, dtype="float32")
    assert group is not None
    segments = [segment for each in trajectories for segment in each.segments]
    assert len(group.samples) == len(segments)
    for sample, segment in zip(group.samples, segments, strict=True):
        assert group.prompt_tokens + sample.tokens == segment.tokens
        shift = len(group.prompt_tokens)
        ranges = trained_ranges(sample.tokens, sample.trained)
        assert tuple((start + shift, end + shift) for start, end in ranges) == segment.trained
        assert len(sample.logprobs) == len(sample.tokens)


def test_a_single_turn_group_is_the_same_as_one_of_plain_samples() -> None:
    calls = [call((1, 2, 3), (4, 5)), call((1, 2, 3), (6,))]
    group = group_of([Trajectory(episode=OK, segments=segments_of([each])) for each in calls], dtype="")
    assert group is not None
    assert group.prompt_tokens == (1, 2, 3)
    assert [(each.tokens, each.trained, each.episode) for each in group.samples] == [
        ((4, 5), (), 0),
        ((6,), (), 1),
    ]


def test_a_segment_that_shares_no_first_token_is_left_out_and_counted() -> None:
    common = Segment(tokens=(1, 2), logprobs=(0.0, -1.0), trained=((1, 2),))
    other = Segment(tokens=(5, 2), logprobs=(0.0, -1.0), trained=((1, 2),))
    alone = Trajectory(episode=OK, segments=(other,))
    group = group_of([Trajectory(episode=OK, segments=(common, other, common)), alone], dtype="")
    assert group is not None
    assert len(group.samples) == 2
    assert [each.left_out for each in group.episodes] == [1, 1]
    assert group_of([Trajectory(episode=OK, segments=())], dtype="") is None
