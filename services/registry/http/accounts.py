"""Tenants and keys."""

import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from mint_common.authority import Authority
from mint_common.catalog import FULL_SCOPES, IssuedKey, KeyOwner, KeyRecord, Scope, TenantRecord
from mint_common.errors import Unauthorized
from mint_common.ids import TenantId, derive_id, new_id
from services.registry.core.keys import KEY_PREFIX, KEY_UNKNOWN, hash_key, stored_key
from services.registry.http.context import Body, Label, Limit, Registry, Tenant, TextCursor
from services.registry.ports.accounts import PAGE

_KEY_BYTES = 32


Scopes = Annotated[tuple[Scope, ...], Field(min_length=1, max_length=5)]


class KeyToVerify(Body):
    """Somebody's key."""

    key: str


class NewName(Body):
    """The name of a new tenant or key."""

    name: Label


class Asking(Body):
    """The key behind a request that makes or changes keys, as it was verified."""

    tenant_id: TenantId
    key_id: Label
    scopes: Scopes

    @property
    def authority(self) -> Authority:
        """Return what it may do."""
        return Authority(tenant_id=self.tenant_id, key_id=self.key_id, scopes=frozenset(self.scopes))


class KeyChange(Body):
    """Who rotates or revokes a key."""

    by: Asking


class NewKey(NewName):
    """A new key, and who makes it; without scopes it may do all that its tenant's admins may."""

    by: Asking
    scopes: Scopes = FULL_SCOPES


def add_account_routes(http: FastAPI, registry: Registry) -> None:
    """Add tenants, and the question whose a key is."""

    @http.post("/internal/keys/verify")
    async def verify_key(body: KeyToVerify) -> KeyOwner:
        owner = await registry.accounts.owner_of(hash_key(body.key), now=registry.clock.now())
        if owner is None:
            raise Unauthorized(problem=KEY_UNKNOWN)
        return owner

    @http.post("/internal/tenants", status_code=201)
    async def create_tenant(body: NewName) -> TenantRecord:
        tenant_id = TenantId(derive_id("ten", body.name))
        now = registry.clock.now()
        return await registry.accounts.add_tenant(
            TenantRecord(tenant_id=tenant_id, name=body.name, created_at=now)
        )

    @http.get("/internal/tenants")
    async def list_tenants(limit: Limit = 100, after: TextCursor = None) -> Sequence[TenantRecord]:
        return await registry.accounts.tenants(limit=limit, after=after)


def add_key_routes(http: FastAPI, registry: Registry) -> None:
    """Add keys."""

    @http.post("/internal/tenants/{tenant_id}/keys", status_code=201)
    async def create_key(tenant_id: Tenant, body: NewKey) -> IssuedKey:
        key, key_id, now = _new_key(), new_id("key"), registry.clock.now()
        stored = stored_key(
            key, key_id=key_id, tenant_id=tenant_id, name=body.name, now=now, scopes=body.scopes
        )
        await registry.accounts.add_key(stored, body.by.authority)
        return IssuedKey(key=key, key_id=key_id, tenant_id=tenant_id, name=body.name, scopes=body.scopes)

    @http.get("/internal/tenants/{tenant_id}/keys")
    async def list_keys(
        tenant_id: Tenant, limit: Limit = PAGE, after: TextCursor = None
    ) -> Sequence[KeyRecord]:
        return await registry.accounts.keys(tenant_id, limit=limit, after=after)

    @http.post("/internal/tenants/{tenant_id}/keys/{key_id}/rotate")
    async def rotate_key(tenant_id: Tenant, key_id: Label, body: KeyChange) -> IssuedKey:
        key = _new_key()
        stored = stored_key(key, key_id=key_id, tenant_id=tenant_id, name="", now=registry.clock.now())
        found = await registry.accounts.replace_key(stored, body.by.authority)
        return IssuedKey(key=key, key_id=key_id, tenant_id=tenant_id, name=found.name, scopes=found.scopes)

    @http.post("/internal/tenants/{tenant_id}/keys/{key_id}/revoke", status_code=204)
    async def revoke_key(tenant_id: Tenant, key_id: Label, body: KeyChange) -> None:
        by, now = body.by.authority, registry.clock.now()
        await registry.accounts.revoke_key(tenant_id, key_id, by, now=now)


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
