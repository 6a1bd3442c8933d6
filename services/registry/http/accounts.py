"""Tenants and keys."""

import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query

from mint_common.catalog import IssuedKey, KeyOwner, KeyRecord, TenantRecord
from mint_common.catalog_requests import Body, KeyBody, Label, LongPageQuery, PageQuery, TenantBody
from mint_common.errors import Unauthorized
from mint_common.ids import TenantId, derive_id, new_id
from mint_common.quotas import QuotaUse
from mint_common.runtime.edge_routes import BodyRoute
from services.registry.core.keys import KEY_PREFIX, KEY_UNKNOWN, hash_key, stored_key
from services.registry.http.context import CallerDep, RegistryDep, Tenant

router = APIRouter(prefix="/internal", route_class=BodyRoute)

_KEY_BYTES = 32


class KeyToVerify(Body):
    """A key to verify."""

    key: str


@router.post("/keys/verify")
async def verify_key(body: KeyToVerify, registry: RegistryDep) -> KeyOwner:
    """Return the owner of a key."""
    owner = await registry.keys.owner_of(hash_key(body.key), now=registry.clock.now())
    if owner is None:
        raise Unauthorized(problem=KEY_UNKNOWN)
    return owner


@router.post("/tenants", status_code=201)
async def create_tenant(body: TenantBody, registry: RegistryDep) -> TenantRecord:
    """Make a tenant, or return the one of that name."""
    tenant_id = TenantId(derive_id("ten", body.name))
    now = registry.clock.now()
    return await registry.accounts.add_tenant(
        TenantRecord(tenant_id=tenant_id, name=body.name, created_at=now)
    )


@router.get("/tenants")
async def list_tenants(page: Annotated[PageQuery, Query()], registry: RegistryDep) -> Sequence[TenantRecord]:
    """Return tenants by name."""
    return await registry.accounts.tenants(limit=page.limit, after=page.after)


@router.get("/tenants/{tenant_id}/usage")
async def get_usage(tenant_id: Tenant, registry: RegistryDep) -> Sequence[QuotaUse]:
    """Return what a tenant has in the catalog, and may have."""
    return await registry.accounts.usage(tenant_id)


@router.post("/tenants/{tenant_id}/keys", status_code=201)
async def create_key(tenant_id: Tenant, body: KeyBody, caller: CallerDep, registry: RegistryDep) -> IssuedKey:
    """Issue a key with scopes that the caller's key holds."""
    key, key_id, now = _new_key(), new_id("key"), registry.clock.now()
    stored = stored_key(key, key_id=key_id, tenant_id=tenant_id, name=body.name, now=now, scopes=body.scopes)
    await registry.accounts.add_key(stored, caller.authority)
    return IssuedKey(key=key, key_id=key_id, tenant_id=tenant_id, name=body.name, scopes=body.scopes)


@router.get("/tenants/{tenant_id}/keys")
async def list_keys(
    tenant_id: Tenant, page: Annotated[LongPageQuery, Query()], registry: RegistryDep
) -> Sequence[KeyRecord]:
    """Return a tenant's keys by id, revoked ones too."""
    return await registry.accounts.keys(tenant_id, limit=page.limit, after=page.after)


@router.get("/tenants/{tenant_id}/keys/{key_id}")
async def get_key(tenant_id: Tenant, key_id: Label, registry: RegistryDep) -> KeyRecord:
    """Return a key of a tenant, a revoked one too."""
    return await registry.accounts.key(tenant_id, key_id)


@router.post("/tenants/{tenant_id}/keys/{key_id}/rotate")
async def rotate_key(tenant_id: Tenant, key_id: Label, caller: CallerDep, registry: RegistryDep) -> IssuedKey:
    """Replace a key by a new one of the same id."""
    key = _new_key()
    stored = stored_key(key, key_id=key_id, tenant_id=tenant_id, name="", now=registry.clock.now())
    found = await registry.accounts.replace_key(stored, caller.authority)
    return IssuedKey(key=key, key_id=key_id, tenant_id=tenant_id, name=found.name, scopes=found.scopes)


@router.delete("/tenants/{tenant_id}/keys/{key_id}", status_code=204)
async def revoke_key(tenant_id: Tenant, key_id: Label, caller: CallerDep, registry: RegistryDep) -> None:
    """Revoke a key."""
    now = registry.clock.now()
    await registry.accounts.revoke_key(tenant_id, key_id, caller.authority, now=now)


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
