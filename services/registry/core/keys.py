"""API keys: random text that is shown once; only its hash is stored."""

import hashlib
from dataclasses import dataclass

from mint_common.catalog import FULL_SCOPES, Scope
from mint_common.ids import TenantId

KEY_PREFIX = "tml-"
KEY_UNKNOWN = "This API key is not known."
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key as stored. ``shown`` is its beginning, by which people identify it."""

    key_id: str
    tenant_id: TenantId
    name: str
    shown: str
    key_hash: bytes
    created_at: float
    scopes: tuple[Scope, ...] = FULL_SCOPES


def stored_key(
    key: str,
    *,
    key_id: str,
    tenant_id: TenantId,
    name: str,
    now: float,
    scopes: tuple[Scope, ...] = FULL_SCOPES,
) -> StoredKey:
    """Return what to store of a key."""
    return StoredKey(
        key_id=key_id,
        tenant_id=tenant_id,
        name=name,
        shown=key[:_SHOWN],
        key_hash=hash_key(key),
        created_at=now,
        scopes=scopes,
    )


def hash_key(key: str) -> bytes:
    """Return the hash to look a key up by.

    A plain SHA-256 is enough: a key has too much entropy to be guessed.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
