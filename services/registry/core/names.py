"""Names: their grammar, and how a model name is parsed.

``model`` is one of ``base``, ``policy``, ``policy@alias``, ``policy@<number>``, ``policy@sha256:<hex>``. The
grammar is unambiguous: a policy's name never looks like a policy id, an alias never like a number.
"""

import re
from dataclasses import dataclass

from mint_common.errors import InvalidField, NotFound
from mint_common.ids import Digest

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
BASE_NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""A base's name is a token of a bus subject, so it has no dots."""

DEFAULT_ALIAS = "prod"
"""The alias that a bare policy name resolves to, when it exists."""

MAX_NUMBER = 2**31 - 1

_NAME = re.compile(NAME_PATTERN.removesuffix("$"), re.ASCII)
_POLICY_ID = re.compile(r"pol_[a-z2-7]{26}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A parsed model name. At most one of ``alias`` and ``revision`` (number or digest) is given."""

    name: str
    alias: str | None = None
    revision: int | Digest | None = None

    @property
    def is_bare(self) -> bool:
        """Return whether it has neither alias nor revision."""
        return self.alias is None and self.revision is None


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
    if _NUMBER.fullmatch(text) or text.isdecimal():
        raise InvalidField(field="alias", problem=f"{text!r} reads as a revision number")


def policy_key(text: str) -> str:
    """Return a policy's id or name if the text could be one. Raises NotFound."""
    if not _NAME.fullmatch(text):
        raise NotFound(kind="policy", name=text[:100])
    return text


def alias_key(text: str) -> str:
    """Return an alias's name if the text could be one. Raises NotFound."""
    if not _NAME.fullmatch(text):
        raise NotFound(kind="alias", name=text[:100])
    return text


def revision_key(text: str) -> int | Digest:
    """Return a revision's number or digest if the text could be one. Raises NotFound."""
    key = _number_or_digest(text)
    if key is None:
        raise NotFound(kind="revision", name=text[:100])
    return key


def parse_model(model: str) -> ModelName:
    """Split a model name. Raises NotFound when it does not match the grammar."""
    name, at, selector = model.partition("@")
    if not _NAME.fullmatch(name):
        raise NotFound(kind="model", name=model[:200])
    if not at:
        return ModelName(name=name)
    key = _number_or_digest(selector)
    if key is not None:
        return ModelName(name=name, revision=key)
    if not _NAME.fullmatch(selector) or selector.isdecimal():
        raise NotFound(kind="model", name=model[:200])
    return ModelName(name=name, alias=selector)


def _number_or_digest(text: str) -> int | Digest | None:
    if _DIGEST.fullmatch(text):
        return Digest(text)
    if _NUMBER.fullmatch(text) and 0 < int(text) <= MAX_NUMBER:
        return int(text)
    return None
