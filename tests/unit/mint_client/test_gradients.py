"""`--gradient` of `mint train` and `mint job create`: words, and the body that they make."""

import pytest

from mint_client.core.gradients import gradient_of
from mint_client.core.training import Wishes, job_body
from mint_common.errors import InvalidField


def test_parts_of_a_gradient_are_words() -> None:
    words = ["loss=clip", "clip_high=1.3", "overlong.buffer=64", "overlong.mask=true"]
    gradient = gradient_of(words)
    assert gradient == {"loss": "clip", "clip_high": 1.3, "overlong": {"buffer": 64, "mask": True}}
    wishes = Wishes(method="rft", own_method="dapo", grader={"type": "x"}, gradient=gradient)
    body = job_body(wishes, model="smollm2", training_file="file-a", suffix=None)
    assert body["method"] == {
        "type": "reinforcement",
        "reinforcement": {"hyperparameters": {}, "grader": {"type": "x"}},
    }
    assert body["mint"] == {"method": "dapo", "gradient": gradient}
    assert gradient_of([]) is None


@pytest.mark.parametrize("words", [["loss"], ["=1"], ["overlong=1", "overlong.mask=true"]])
def test_a_part_of_a_gradient_that_is_no_word_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidField, match="--gradient"):
        gradient_of(words)
