"""Valid keys of a blob store: relative paths that are unambiguous in file systems and URLs."""

import re

from mint_common.errors import InvalidField

MAX_KEY_LENGTH = 1024  # S3's limit
MAX_PART_LENGTH = 200  # leaves a file system's 255 bytes room for a temporary suffix

_PART = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def check_key(key: str) -> tuple[str, ...]:
    """Return the parts of a key. Raises InvalidField."""
    parts = tuple(key.split("/"))
    for part in parts:
        if not _PART.fullmatch(part) or part in {".", ".."}:
            _refuse("parts must be of [A-Za-z0-9._-], not empty, '.' or '..'", key)
        if len(part) > MAX_PART_LENGTH:
            _refuse(f"a part is longer than {MAX_PART_LENGTH} characters", key)
    if len(key) > MAX_KEY_LENGTH:
        _refuse(f"longer than {MAX_KEY_LENGTH} characters", key)
    return parts


def check_prefix(prefix: str) -> tuple[str, ...]:
    """Return the whole folders of a prefix; its last part may be partial. Raises InvalidField."""
    *folders, rest = prefix.split("/")
    if folders:
        check_key("/".join(folders))
    if rest and not _PART.fullmatch(rest):
        _refuse("a prefix is of [A-Za-z0-9._-] and '/'", prefix)
    return tuple(folders)


def _refuse(problem: str, key: str) -> None:
    raise InvalidField(field="key", problem=f"{problem}; found {key[:100]!r}")
