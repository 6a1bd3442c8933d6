"""The score of a model's answer is its last number within the range."""

import pytest

from mint_common.graders import GraderFault
from mint_common.graders.grade import score_in


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("0.7", 0.7),
        ("Score: 0.8.", 0.8),
        ("0.3 at first, then 0.9", 0.9),
        ("0.8 out of 10", 0.8),
        ("a **.5**", 0.5),
        ("(1)", 1.0),
        ("1e-1", 0.1),
        ("8/10 is 0.8", 0.8),
        ("1/10", 1.0),
        ("[0.1, 0.9]", 0.9),
        ("v0.2 of step1 gets 0", 0.0),
    ],
)
def test_a_score_is_the_last_number_within_the_range(answer, score) -> None:
    assert score_in(answer, low=0, high=1, is_cut=False) == score


@pytest.mark.parametrize(
    "answer", ["", "none", "7", "-0.5", "v1.0.1", "0,8", "x0", "1_0", "nan", "1e400", "0.5x"]
)
def test_an_answer_without_one_is_a_fault(answer) -> None:
    with pytest.raises(GraderFault) as fault:
        score_in(answer, low=0, high=1, is_cut=False)
    assert fault.value.kind == "model_grader_parse_error"


def test_a_number_where_an_answer_was_cut_may_lack_digits() -> None:
    assert score_in("0.25, so 0.7", low=0, high=1, is_cut=True) == 0.25
    assert score_in("0.7 as", low=0, high=1, is_cut=True) == 0.7
    for answer in ("0.", "0.7"):
        with pytest.raises(GraderFault):
            score_in(answer, low=0, high=1, is_cut=True)


def test_negative_ranges_hold_negative_scores() -> None:
    assert score_in("It is -3.", low=-5, high=5, is_cut=False) == -3
