"""What tells that a request without a number is one that came before: the key that clients send with it.

The SDK sends ``X-Idempotency-Key``, the same one each time that it repeats an HTTP request.
"""

import hashlib
from collections.abc import Mapping

from mint_common.errors import InvalidField
from mint_common.ids import TenantId, derive_id
from mint_common.training import UNNUMBERED

HEADERS = ("Idempotency-Key", "X-Idempotency-Key")
_PLACE_BITS = 62
"""Places are 64-bit integers with a sign in the database."""


def request_key(headers: Mapping[str, str], *, fresh: str) -> str:
    """Return a request's key; ``fresh`` when it has none, and is the only one of its kind.

    Raises InvalidField.
    """
    for name in HEADERS:
        key = headers.get(name.lower())
        if key is None:
            continue
        if not (0 < len(key) <= 255 and key.isprintable()):
            raise InvalidField(field=name, problem="must be 1 to 255 printable characters")
        return key
    return fresh


def unnumbered_place(key: str) -> int:
    """Return the place of an operation that its client did not number: one of its key."""
    digest = hashlib.sha256(key.encode()).digest()
    return UNNUMBERED + (int.from_bytes(digest[:8], "big") >> (64 - _PLACE_BITS))


def keyed_session_id(tenant_id: TenantId, key: str) -> str:
    """Return the id of the session that a tenant's request makes for itself."""
    return derive_id("ses", tenant_id, key)
