"""Repeated requests: the same Idempotency-Key and body is one request, however often it is sent."""

import hashlib
import json
from dataclasses import dataclass

from mint_common.errors import InvalidField, MintError
from mint_common.ids import JobId, TenantId, derive_id
from services.gateway.core.json_types import JsonObject


class IdempotencyConflict(MintError):
    """Idempotency-Key {key!r} was used before with another body: use a new key for a new request."""

    code = "idempotency_conflict"
    http_status = 422


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestIdentity:
    """A request that changes something: its cause in the ledger, its job's id, the hash of its body.

    ``key`` is None when the user sent no Idempotency-Key; the request is then one of its kind.
    """

    key: str | None
    cause: str
    job_id: JobId
    body_sha256: str


def identify(tenant_id: TenantId, *, key: str | None, body: JsonObject, fresh_id: str) -> RequestIdentity:
    """Return the identity of a request; ``fresh_id`` is used when it has no key. Keys are per tenant."""
    if key is not None and not (0 < len(key) <= 255 and key.isprintable()):
        raise InvalidField(field="Idempotency-Key", problem="must be 1 to 255 printable characters")
    cause = derive_id("req", tenant_id, key) if key is not None else fresh_id
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return RequestIdentity(
        key=key,
        cause=cause,
        job_id=JobId(derive_id("job", cause)),
        body_sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def check_same_body(identity: RequestIdentity, stored_sha256: str) -> None:
    """Refuse a key that came before with another body. Raises IdempotencyConflict."""
    if identity.body_sha256 != stored_sha256:
        raise IdempotencyConflict(key=identity.key or "")
