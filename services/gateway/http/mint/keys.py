"""``/mint/v1/keys`` and ``/mint/v1/tenants``: who may do what. A key is shown once, when it is made."""

from dataclasses import dataclass
from typing import ClassVar

from fastapi import APIRouter

from mint_common.catalog import FULL_SCOPES, IssuedKey, KeyRecord, Scope, TenantRecord
from mint_common.ids import TenantId
from services.gateway.core.examples import body_config
from services.gateway.core.json_types import JsonObject
from services.gateway.http.edge.context import AdminCaller, GatewayDep, LimitQuery, OperatorCaller
from services.gateway.http.edge.recording import SecretRoute

router = APIRouter(prefix="/mint/v1", tags=["keys"], route_class=SecretRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyBody:
    """A new key: ``read``, ``infer`` (ask models), ``train`` (change policies), ``admin`` (all of it)."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"name": "ci", "scopes": ["read", "infer"]})

    name: str
    scopes: tuple[Scope, ...] = FULL_SCOPES


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantBody:
    """A new tenant."""

    __pydantic_config__: ClassVar[JsonObject] = body_config({"name": "search-team"})

    name: str


@router.get("/keys")
async def list_keys(
    caller: AdminCaller, gateway: GatewayDep, limit: LimitQuery = 1000, after: str | None = None
) -> list[KeyRecord]:
    """List the tenant's keys by id, revoked ones too; ``after`` is the last id of the page before.

    Takes an admin key, as all of these.
    """
    return await gateway.registry.list_keys(caller.tenant_id, limit=limit, after=after)


@router.post("/keys", status_code=201)
async def create_key(body: KeyBody, caller: AdminCaller, gateway: GatewayDep) -> IssuedKey:
    """Make a key, with no scope that the key behind the request does not hold."""
    return await gateway.registry.create_key(
        caller.tenant_id, name=body.name, scopes=body.scopes, by=caller.authority
    )


@router.post("/keys/{key}/rotate")
async def rotate_key(key: str, caller: AdminCaller, gateway: GatewayDep) -> IssuedKey:
    """Replace a key by a new one of the same id; the old one is believed for seconds at most.

    403 for a key with scopes that the one behind the request does not hold.
    """
    return await gateway.registry.rotate_key(caller.tenant_id, key, by=caller.authority)


@router.delete("/keys/{key}", status_code=204)
async def revoke_key(key: str, caller: AdminCaller, gateway: GatewayDep) -> None:
    """Revoke a key; it is believed for seconds at most, and by routes that take an admin key not at all.

    403 for a key with scopes that the one behind the request does not hold.
    """
    await gateway.registry.revoke_key(caller.tenant_id, key, by=caller.authority)


@router.get("/tenants")
async def list_tenants(
    _caller: OperatorCaller, gateway: GatewayDep, limit: LimitQuery = 100, after: str | None = None
) -> list[TenantRecord]:
    """List tenants by name. Takes an operator's key, as all of these."""
    return await gateway.registry.list_tenants(limit=limit, after=after)


@router.post("/tenants", status_code=201)
async def create_tenant(body: TenantBody, _caller: OperatorCaller, gateway: GatewayDep) -> TenantRecord:
    """Make a tenant, or return the one of that name."""
    return await gateway.registry.create_tenant(body.name)


@router.post("/tenants/{tenant}/keys", status_code=201)
async def create_tenant_key(
    tenant: TenantId, body: KeyBody, caller: OperatorCaller, gateway: GatewayDep
) -> IssuedKey:
    """Make a tenant's first admin key, or any other."""
    return await gateway.registry.create_key(tenant, name=body.name, scopes=body.scopes, by=caller.authority)
