"""``/mint/v1/keys`` and ``/mint/v1/tenants``: keys, scopes and tenants. A key is shown only once."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from mint_common.catalog import IssuedKey, KeyRecord, TenantRecord
from mint_common.catalog_requests import KeyBody, LongPageQuery, PageQuery, TenantBody
from services.gateway.http.edge.recording import SecretRoute, creates
from services.gateway.http.mint.forwarding import AdminCatalog, TenantsCatalog

router = APIRouter(prefix="/mint/v1", tags=["keys"], route_class=SecretRoute)

KeyPath = Annotated[str, Path(alias="key")]


@router.get("/keys", response_model=list[KeyRecord])
async def list_keys(_page: Annotated[LongPageQuery, Query()], catalog: AdminCatalog) -> Response:
    """List the tenant's keys by id, including revoked ones; ``after`` is the last id of the previous page.

    Needs an admin key, as all routes of keys.
    """
    return await catalog.forward()


@router.post("/keys", status_code=201, response_model=IssuedKey, dependencies=[creates("key_id")])
async def create_key(_body: KeyBody, catalog: AdminCatalog) -> Response:
    """Create a key. It gets no scope that the requesting key lacks."""
    return await catalog.forward()


@router.post("/keys/{key}/rotate", response_model=IssuedKey)
async def rotate_key(_key: KeyPath, catalog: AdminCatalog) -> Response:
    """Replace a key by a new one with the same id; the old key works for some seconds at most.

    403 for a key with scopes that the requesting key lacks.
    """
    return await catalog.forward()


@router.delete("/keys/{key}", status_code=204)
async def revoke_key(_key: KeyPath, catalog: AdminCatalog) -> Response:
    """Revoke a key; it works for some seconds at most, and not at all on routes that need an admin key.

    403 for a key with scopes that the requesting key lacks.
    """
    return await catalog.forward()


@router.get("/tenants", response_model=list[TenantRecord])
async def list_tenants(_page: Annotated[PageQuery, Query()], catalog: TenantsCatalog) -> Response:
    """List tenants by name. Needs an operator's key, as all routes of tenants."""
    return await catalog.forward()


@router.post("/tenants", status_code=201, response_model=TenantRecord, dependencies=[creates("name")])
async def create_tenant(_body: TenantBody, catalog: TenantsCatalog) -> Response:
    """Create a tenant, or return the one with that name."""
    return await catalog.forward()


@router.post(
    "/tenants/{tenant}/keys", status_code=201, response_model=IssuedKey, dependencies=[creates("key_id")]
)
async def create_tenant_key(
    _tenant: Annotated[str, Path(alias="tenant")], _body: KeyBody, catalog: TenantsCatalog
) -> Response:
    """Create a key for a tenant, such as its first admin key."""
    return await catalog.forward()
