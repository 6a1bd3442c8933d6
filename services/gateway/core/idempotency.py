"""Repeated requests: the same key and content is one request, no matter how often it is sent.

`requests` in Postgres keeps the first answer for a day. What a request creates has ids derived from its key
and content, so that a repeat finds it even when the gateway was killed before it answered.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from mint_common.errors import InvalidField, MintError
from mint_common.ids import TenantId, derive_id

HEADER = "Idempotency-Key"
SDK_HEADER = "X-Idempotency-Key"
"""Header of the Tinker SDK, equal in all repetitions of a request."""
GIVEN_PREFIX = "sdk:"
"""Prefix of the keys that the gateway gives to requests of OpenAI's clients, which send none."""
LEASE_SECONDS = 60.0
"""Time that an unanswered request holds its key after its last sign of life."""
KEPT_SECONDS = 86_400.0


class IdempotencyConflict(MintError):
    """Idempotency-Key {key!r} was used before with another body: use a new key for a new request."""

    code = "idempotency_conflict"
    http_status = 422


class RequestAtWork(MintError):
    """The first request with Idempotency-Key {key!r} is still at work: repeat it in a moment."""

    code = "request_at_work"
    retryable = True
    http_status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """The first answer; ``streamed_sha256`` is of the request's body if that was streamed."""

    status: int
    content_type: str
    body: bytes
    streamed_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenKey:
    """A key whose request is to be executed. ``first_at``: when the first of its repeats arrived."""

    first_at: float
    is_repeat: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with an Idempotency-Key; ``sha256`` is of its method, target and unstreamed body."""

    tenant_id: TenantId
    key: str
    sha256: str

    @property
    def request_id(self) -> str:
        """Return an id that all repeats of the request share."""
        return derive_id("req", self.tenant_id, self.key, self.sha256)

    def cause(self, taken: TakenKey) -> str:
        """Return an id that the repeats share until the key is released."""
        return derive_id("req", self.request_id, taken.first_at.hex())


def keyed_request(tenant_id: TenantId, key: str, *, method: str, target: str, body: bytes) -> KeyedRequest:
    """Return a request's identity. Raises InvalidField for an unusable key."""
    content = hashlib.sha256(f"{method} {target}\n".encode() + body)
    return KeyedRequest(tenant_id=tenant_id, key=check_key(HEADER, key), sha256=content.hexdigest())


def sent_key(headers: Mapping[str, str]) -> str | None:
    """Return the key that a Tinker client sent with a request. Raises InvalidField."""
    for name in (HEADER, SDK_HEADER):
        key = headers.get(name.lower())
        if key is not None:
            return check_key(name, key)
    return None


def check_key(header: str, key: str) -> str:
    """Return a usable key. Raises InvalidField."""
    if not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidField(field=header, problem="must be 1 to 255 printable characters")
    return key
