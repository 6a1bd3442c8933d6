"""Names in the catalog, and valid path segments.

The grammar is unambiguous: a policy's name never looks like a policy id, an alias never like a number.
"""

import re

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import BaseName, Digest, is_digest

MAX_NAME = 63
"""Maximum characters of a name."""
NAME_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,{MAX_NAME - 1}}}$"
BASE_NAME_PATTERN = rf"^[a-z0-9][a-z0-9_-]{{0,{MAX_NAME - 1}}}$"
"""A base's name is a token of a bus subject, so it has no dots."""
SEGMENT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"

LATEST = "latest"
"""Names the newest published revision of a policy."""
BEST = "best"
"""Names the revision of a policy whose samples in training got the highest mean reward."""

RULE_ACTOR, JOB_ACTOR = "rule:", "job:"
"""Moves by a rule, or of a job that succeeded, have one of these and its id as actor."""
AUTOMATIC_ACTORS = (RULE_ACTOR, JOB_ACTOR)
"""All other actors count as people, so no key is named so."""

MAX_NUMBER = 2**31 - 1

MAX_LIMIT = 1000
"""Maximum items of a list in one answer."""

_NAME = re.compile(NAME_PATTERN.removesuffix("$"), re.ASCII)
_BASE = re.compile(BASE_NAME_PATTERN.removesuffix("$"), re.ASCII)
_POLICY_ID = re.compile(r"pol_[a-z2-7]{26}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,9}", re.ASCII)
"""One number has one spelling: an answer says the name that it was asked in."""
_SEGMENT = re.compile(SEGMENT_PATTERN[1:-1], re.ASCII)


def check_segment(kind: str, text: str) -> str:
    """Return a valid path segment: a name, id, number or digest. Raises NotFound otherwise."""
    return _found(kind, text, _SEGMENT)


def _found(kind: str, text: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(text):
        raise NotFound(kind=kind, name=text[:100])
    return text


def is_name(text: str) -> bool:
    """Return whether a policy or alias may be called so."""
    return _NAME.fullmatch(text) is not None


def is_policy_id(text: str) -> bool:
    """Return whether the text is a policy id, not a name."""
    return _POLICY_ID.fullmatch(text) is not None


def check_policy_name(text: str) -> None:
    """Check the name of a new policy. Raises InvalidField."""
    if not _NAME.fullmatch(text):
        raise InvalidField(field="name", problem=f"{text[:100]!r} does not match {NAME_PATTERN}")
    if is_policy_id(text):
        raise InvalidField(field="name", problem=f"{text!r} looks like a policy id")


def check_alias_name(text: str) -> None:
    """Check the name of an alias. Raises InvalidField."""
    if not _NAME.fullmatch(text):
        raise InvalidField(field="alias", problem=f"{text[:100]!r} does not match {NAME_PATTERN}")
    if text.isdecimal():
        raise InvalidField(field="alias", problem=f"{text!r} reads as a revision number")


def base_key(text: str) -> BaseName:
    """Return a base's name if the text could be one. Raises NotFound."""
    return BaseName(_found("base", text, _BASE))


def policy_key(text: str) -> str:
    """Return a policy's id or name if the text could be one. Raises NotFound."""
    return _found("policy", text, _NAME)


def alias_key(text: str) -> str:
    """Return an alias's name if the text could be one. Raises NotFound."""
    return _found("alias", text, _NAME)


def revision_key(text: str) -> int | Digest:
    """Return a revision's number or digest if the text could be one. Raises NotFound."""
    key = number_or_digest(text)
    if key is None:
        raise NotFound(kind="revision", name=text[:100])
    return key


def number_or_digest(text: str) -> int | Digest | None:
    """Return the number or digest in a revision's text, None if neither."""
    if is_digest(text):
        return Digest(text)
    if _NUMBER.fullmatch(text) and int(text) <= MAX_NUMBER:
        return int(text)
    return None
