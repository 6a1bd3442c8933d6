"""The blob store port: immutable objects with content hashes.

Promises of every adapter (checked by `tests/contract/test_blobs.py`):
- A key is visible only when all its bytes are stored durably; a crash leaves the old state or the new one.
- `put_new` never overwrites: exactly one of several racing writers of a key wins.
- `get` checks bytes against the claim and raises BlobCorrupt on a difference, BlobMissing on absence.
- Keys are relative paths of ``[A-Za-z0-9._-]`` parts; any other key raises InvalidField before any I/O.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from mint_common.claims import Claim
from mint_common.errors import InvalidField

MAX_KEY_LENGTH = 1024  # S3's limit
MAX_PART_LENGTH = 200  # leaves a file system's 255 bytes room for a temporary suffix
_PART = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class Blobs(Protocol):
    """A blob store; safe for concurrent use."""

    async def put(self, key: str, data: bytes) -> Claim:
        """Store bytes under a key, replacing an existing blob, and return their claim."""
        ...

    async def put_new(self, key: str, data: bytes) -> Claim:
        """Store bytes under a key that must be free, or hold equal bytes already. Raises AlreadyExists."""
        ...

    async def put_file(self, key: str, path: Path) -> Claim:
        """Do as `put_new` with a local file, which must not change meanwhile, in bounded memory."""
        ...

    async def get(self, claim: Claim) -> bytes:
        """Return the claimed bytes, checked."""
        ...

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Return a part of the claimed bytes, unchecked but for the size of the whole.

        Raises InvalidField for a range that is empty or not within the claim.
        """
        ...

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Write the claimed bytes to a local file, checked, atomically, with bounded memory.

        The file is a copy: it is not synced, and after a power loss it may be torn.
        """
        ...

    async def delete(self, key: str) -> None:
        """Remove a key. Idempotent."""
        ...

    def list(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix, in lexical order."""
        ...

    async def close(self) -> None:
        """Release connections. Idempotent."""
        ...


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
