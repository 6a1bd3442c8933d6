"""Log-probabilities of streams whose reader was slow: vLLM has joined the outputs of several steps."""

import pytest

from services.loader.adapters.vllm.streams import likeliest

TOP = [(7, -0.1), (8, -1.5), (9, -3.0)]
"""The likeliest tokens of each position, the likeliest first."""


def position(own: int, logprob: float):
    """Return what vLLM keeps of one step: the sampled token, then the likeliest ones."""
    from vllm.logprobs import FlatLogprobs

    rows = [(own, logprob), *TOP]
    flat = FlatLogprobs()
    tokens, values = [token for token, _ in rows], [value for _, value in rows]
    flat.append_fast(tokens, values, [3, 1, 2, 3], [f"<{token}>" for token in tokens])
    return flat


@pytest.mark.parametrize("own", [7, 8, 9, 55])
def test_joined_positions_have_the_likeliest_tokens_that_they_had_apart(own: int) -> None:
    logprob = dict(TOP).get(own, -6.0)
    joined = position(own, logprob)
    for _ in range(2):
        joined.extend(position(own, logprob))  # as vLLM does, which names no token of a position twice

    for start, end in zip(joined.start_indices, joined.end_indices, strict=True):
        assert joined.token_ids[start] == own
        found = likeliest(joined, start, end, len(TOP))
        assert [(one.token, one.logprob) for one in found] == TOP
        assert [one.text for one in found] == ["<7>", "<8>", "<9>"]
