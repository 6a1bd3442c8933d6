"""Answers that would be too large are refused before anything is generated."""

import pytest

from mint_common.errors import InvalidField
from mint_common.inference.sizes import check_answer_bytes, entries_of, json_bytes, packed_answer_bytes

MOST = 32 << 20


def test_what_one_flood_of_log_probabilities_asked_for_is_refused_with_what_to_lower() -> None:
    size = json_bytes(tokens=128 * 200, entries=entries_of(20))
    with pytest.raises(InvalidField, match=r"38 MiB.*32 MiB.*lower top_logprobs or max_tokens") as refused:
        check_answer_bytes(size, MOST, lower=("top_logprobs", "max_tokens"))
    assert refused.value.http_status == 422


@pytest.mark.parametrize(
    ("choices", "new_tokens", "likeliest"), [(1, 8192, 20), (128, 2048, None), (128, 1024, 0), (16, 1024, 5)]
)
def test_everyday_answers_pass(choices: int, new_tokens: int, likeliest: int | None) -> None:
    size = json_bytes(tokens=choices * new_tokens, entries=entries_of(likeliest))
    check_answer_bytes(size, MOST, lower=("n",))


def test_samples_are_bounded_with_their_prompts_scores() -> None:
    plain = packed_answer_bytes(
        sequences=128, new_tokens=2048, likeliest=0, prompt_tokens=2048, prompt_likeliest=20
    )
    check_answer_bytes(plain, MOST, lower=("num_samples",))
    full = packed_answer_bytes(
        sequences=128, new_tokens=2048, likeliest=20, prompt_tokens=1, prompt_likeliest=None
    )
    with pytest.raises(InvalidField):
        check_answer_bytes(full, MOST, lower=("num_samples",))
