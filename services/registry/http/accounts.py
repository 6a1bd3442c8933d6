"""Tenants and keys."""

import secrets
from typing import Annotated

from fastapi import FastAPI
from pydantic import StringConstraints

from mint_common.catalog import IssuedKey, KeyOwner, TenantRecord
from mint_common.errors import Unauthorized
from mint_common.ids import TenantId, derive_id, new_id
from services.registry.core.keys import KEY_PREFIX, hash_key, stored_key
from services.registry.http.context import Body, Label, Registry, Tenant

_KEY_BYTES = 32


class KeyToVerify(Body):
    """Somebody's key."""

    key: Annotated[str, StringConstraints(max_length=500)]


class NewName(Body):
    """The name of a new tenant or key."""

    name: Label


def add_account_routes(http: FastAPI, registry: Registry) -> None:
    """Add tenants and keys."""

    @http.post("/internal/keys/verify")
    async def verify_key(body: KeyToVerify) -> KeyOwner:
        owner = await registry.accounts.owner_of(hash_key(body.key))
        if owner is None:
            raise Unauthorized(problem="This API key is not known.")
        return owner

    @http.post("/internal/tenants", status_code=201)
    async def create_tenant(body: NewName) -> TenantRecord:
        tenant_id = TenantId(derive_id("ten", body.name))
        now = registry.clock.now()
        return await registry.accounts.add_tenant(
            TenantRecord(tenant_id=tenant_id, name=body.name, created_at=now)
        )

    @http.post("/internal/tenants/{tenant_id}/keys", status_code=201)
    async def create_key(tenant_id: Tenant, body: NewName) -> IssuedKey:
        key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
        key_id = new_id("key")
        now = registry.clock.now()
        stored = stored_key(key, key_id=key_id, tenant_id=tenant_id, name=body.name, now=now)
        await registry.accounts.put_key(stored)
        return IssuedKey(key=key, key_id=key_id, tenant_id=tenant_id, name=body.name)
