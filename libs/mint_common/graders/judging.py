"""The score that a model has given: the last number of its answer that lies within the range."""

import re

from mint_common.graders.grade import GraderFault

_NUMBER = re.compile(
    r"(?<![\w./+-])(?<!\d,)[+-]?(?:\d{1,15}(?:\.\d{1,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,2})?(?!\w|[.,]\d)"
)
"""Not within a word or another number, and not after a slash: of "8/10" it is 8."""


def score_in(answer: str, *, low: float, high: float, is_cut: bool) -> float:
    """Return the score. Raises GraderFault when there is none.

    Numbers outside [low, high] are passed over. ``is_cut``: the answer ended at its greatest length, so a
    number at its very end may lack digits and does not count.
    """
    for found in reversed(list(_NUMBER.finditer(answer))):
        if is_cut and found.end() >= len(answer.rstrip(".")):
            continue
        if low <= (score := float(found[0])) <= high:
            return score
    problem = f"the answer has no number from {low:g} to {high:g}: {answer[-200:]!r}"
    raise GraderFault("model_grader_parse_error", problem)
