"""Routes on their way into a record: the prompt's once, each completion's own behind it."""

from hypothesis import given
from hypothesis import strategies as st

from services.rollout.core.sampling import Completion, SampledGroup, scored_group

TOKEN_BYTES = 4
UNKNOWN = b"\xff" * TOKEN_BYTES


def row(number: int) -> bytes:
    return number.to_bytes(TOKEN_BYTES, "little")


@given(
    prompt=st.integers(1, 6),
    completions=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=4),
)
def test_a_prompt_s_routes_come_of_whoever_read_it(prompt: int, completions: list[tuple[int, int]]) -> None:
    told = []
    for number, (length, cached) in enumerate(completions):
        own = [row(1000 * (number + 1) + at) for at in range(length - 1)]
        known = [UNKNOWN if at < cached else row(at) for at in range(prompt)]
        told.append(
            Completion(
                text="", tokens=(7,) * length, logprobs=(-1.0,) * length, routes=b"".join((*known, *own))
            )
        )
    sampled = SampledGroup(revision=None, prompt_tokens=(3,) * prompt, completions=tuple(told))
    group = scored_group(sampled, [0.0] * len(told))
    least = min(cached for _, cached in completions)
    assert group.prompt_experts == b"".join(UNKNOWN if at < least else row(at) for at in range(prompt))
    for number, (sample, (length, _)) in enumerate(zip(group.samples, completions, strict=True)):
        assert sample.experts == b"".join(row(1000 * (number + 1) + at) for at in range(length - 1))


def test_without_routes_a_record_has_none() -> None:
    done = Completion(text="", tokens=(7, 2), logprobs=(-1.0, -1.0))
    group = scored_group(
        SampledGroup(revision=None, prompt_tokens=(3, 4), completions=(done,) * 2, dtype="bfloat16"),
        [0.0, 1.0],
    )
    assert group.sampler_dtype == "bfloat16"
    assert (group.prompt_experts, {sample.experts for sample in group.samples}) == (b"", {b""})
