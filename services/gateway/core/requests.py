"""Requests that change something: who asked, and which of them are one and the same."""

import hashlib
from dataclasses import dataclass

from mint_common.errors import InvalidField, MintError
from mint_common.ids import TenantId

AT_WORK_SECONDS = 60.0
"""How long a first request keeps its key while it has no answer and says nothing: then it has crashed."""
KEPT_SECONDS = 86_400.0


class RequestAtWork(MintError):
    """The first request with Idempotency-Key {key!r} is still at work: repeat it in a moment."""

    code = "request_at_work"
    retryable = True
    http_status = 503


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """What the first request was answered; ``streamed_sha256`` is of its body, where that went by unread."""

    status: int
    content_type: str
    body: bytes
    streamed_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedRequest:
    """A request with an Idempotency-Key; ``sha256`` is of all that it says, less a body that is streamed."""

    tenant_id: TenantId
    key: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change through the public API. ``place`` orders them; 0 for one that is not stored yet."""

    at: float
    key_id: str
    actor: str
    method: str
    path: str
    status: int
    place: int = 0


def keyed_request(tenant_id: TenantId, key: str, *, method: str, target: str, body: bytes) -> KeyedRequest:
    """Return a request's identity. Raises InvalidField for a key that is none."""
    if not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidField(field="Idempotency-Key", problem="must be 1 to 255 printable characters")
    said = hashlib.sha256(f"{method} {target}\n".encode() + body)
    return KeyedRequest(tenant_id=tenant_id, key=key, sha256=said.hexdigest())
