"""Identifiers, and ids that are derived from their cause.

A derived id is the same on every retry, which is what makes a repeated event harmless.
"""

import base64
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NewType

TenantId = NewType("TenantId", str)
BaseName = NewType("BaseName", str)
PolicyId = NewType("PolicyId", str)
JobId = NewType("JobId", str)
WaveId = NewType("WaveId", str)
EvaluationId = NewType("EvaluationId", str)
EngineId = NewType("EngineId", str)
EventId = NewType("EventId", str)

Digest = NewType("Digest", str)
"""Content digest, written ``sha256:<64 lower-case hex digits>``."""

_HEX = slice(len("sha256:"), None)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def derive_id(prefix: str, *parts: str | int) -> str:
    """Return ``<prefix>_<26 characters>``, a pure function of the prefix and the parts."""
    text = json.dumps([prefix, *parts], separators=(",", ":"))
    return f"{prefix}_{_base32(hashlib.sha256(text.encode()).digest())}"


def new_id(prefix: str) -> str:
    """Return a fresh random id of the same shape as a derived one."""
    return f"{prefix}_{_base32(secrets.token_bytes(16))}"


def sha256_digest(data: bytes) -> Digest:
    """Return the digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def pack_digests(digests: Iterable[Digest]) -> Iterator[bytes]:
    """Yield digests as 32 bytes each, in parts: a million of them are 32 MB."""
    rest = iter(digests)
    while part := b"".join(bytes.fromhex(each[_HEX]) for each in islice(rest, 8192)):
        yield part


def unpack_digests(packed: bytes) -> set[Digest]:
    """Return what `pack_digests` packed. Raises ValueError."""
    if len(packed) % 32:
        raise ValueError(f"{len(packed)} bytes are not digests of 32 bytes")
    return {Digest(f"sha256:{packed[at : at + 32].hex()}") for at in range(0, len(packed), 32)}


def is_digest(text: str) -> bool:
    """Return whether a text is written as a digest."""
    return _DIGEST.fullmatch(text) is not None


def _base32(raw: bytes) -> str:
    return base64.b32encode(raw[:16]).decode().lower().rstrip("=")
