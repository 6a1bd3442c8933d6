"""Ids of answers: each has the first digits of the digest of the revision that answered.

The id of a base's answer has none.
"""

import re

from mint_common.claims import RevisionRef
from mint_common.ids import new_id

PREFIX_DIGITS = 16
"""Hexadecimal digits that name a digest. Two of 10^6 revisions share them with a probability of 3e-8."""
PREFIX_PATTERN = rf"[0-9a-f]{{{PREFIX_DIGITS},64}}"
_KIND = "gen"
_ANSWER = re.compile(rf"{_KIND}_[a-z2-7]{{26}}(?:_([0-9a-f]{{{PREFIX_DIGITS}}}))?(?![0-9a-z_])")
_DIGEST = re.compile(r"\b(?:sha256:)?([0-9a-f]{64})\b")
_PREFIX = re.compile(rf"(?:sha256:)?({PREFIX_PATTERN})")
_BASE = re.compile(r"\bbase:\S")


def answer_id(revision: RevisionRef | None) -> str:
    """Return a fresh id of an answer by a revision, or by a base (None)."""
    own = new_id(_KIND)
    return own if revision is None else f"{own}_{digest_prefix(revision.digest)}"


def digest_prefix(digest: str) -> str:
    """Return the first 16 hexadecimal digits of a digest."""
    return digest.removeprefix("sha256:")[:PREFIX_DIGITS]


def is_base_answer(text: str) -> bool:
    """Return whether a text has the id of a base's answer, or its `x-mint-revision`."""
    found = _ANSWER.search(text.lower())
    return _BASE.search(text) is not None or (found is not None and found[1] is None)


def digest_prefix_in(text: str) -> str:
    """Return the first 16 or more hexadecimal digits of the digest in a text; empty if it has none.

    The text is a digest or its first digits, or contains a whole digest or the id of an answer.
    """
    lower = text.strip().lower()
    found = _DIGEST.search(lower) or _ANSWER.search(lower) or _PREFIX.fullmatch(lower)
    return (found[1] or "") if found else ""
