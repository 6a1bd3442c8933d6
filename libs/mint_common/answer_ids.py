"""Ids of answers, which lead to the revision that answered.

An id ends in the first 16 hexadecimal digits of the revision's digest; the id of a base's answer has none.
"""

import re

from mint_common.claims import RevisionRef
from mint_common.ids import new_id

MIN_DIGITS, MAX_DIGITS = 8, 64
"""Hexadecimal digits of a digest by which its revision is found."""
_ID_DIGITS = 16
_PREFIX = "gen"
_ANSWER = re.compile(rf"{_PREFIX}_[a-z2-7]{{26}}(?:_([0-9a-f]{{{_ID_DIGITS}}}))?(?![0-9a-z])")
_DIGEST = re.compile(rf"\b(?:sha256:)?([0-9a-f]{{{MAX_DIGITS}}})\b")
_BEGINNING = re.compile(rf"(?:sha256:)?([0-9a-f]{{{MIN_DIGITS},{MAX_DIGITS}}})")


def answer_id(revision: RevisionRef | None) -> str:
    """Return a fresh id of an answer by a revision, or by a base (None)."""
    own = new_id(_PREFIX)
    return own if revision is None else f"{own}_{revision.digest.removeprefix('sha256:')[:_ID_DIGITS]}"


def is_base_answer(text: str) -> bool:
    """Return whether a text contains the id of a base's answer."""
    found = _ANSWER.search(text.lower())
    return found is not None and found[1] is None


def digest_digits_in(text: str) -> str:
    """Return the first hexadecimal digits of the digest that a text has; empty if it has none.

    The text is the beginning of a digest, or contains a whole digest or the id of an answer.
    """
    lower = text.strip().lower()
    found = _DIGEST.search(lower) or _ANSWER.search(lower) or _BEGINNING.fullmatch(lower)
    return (found[1] or "") if found else ""
