"""``/mint/v1/keys`` and ``/mint/v1/tenants``: keys, scopes and tenants. A key is shown only once."""

from dataclasses import dataclass
from typing import Annotated, get_args

from fastapi import APIRouter, Path, Query, Response

from mint_common.authority import held_scopes
from mint_common.catalog import IssuedKey, KeyRecord, Scope, TenantRecord
from mint_common.catalog_requests import KeyBody, LongPageQuery, PageQuery, TenantBody
from mint_common.ids import TenantId
from services.gateway.http.edge.context import ReadCaller
from services.gateway.http.edge.recording import SecretRoute, creates
from services.gateway.http.edge.reference import VERSION
from services.gateway.http.mint.forwarding import AdminCatalog, TenantsCatalog

router = APIRouter(prefix="/mint/v1", tags=["keys"], route_class=SecretRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnKey:
    """The key of a request; ``scopes`` include those that others include."""

    tenant_id: TenantId
    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    version: str


KeyPath = Annotated[str, Path(alias="key")]


@router.get("/keys", response_model=list[KeyRecord])
async def list_keys(_page: Annotated[LongPageQuery, Query()], catalog: AdminCatalog) -> Response:
    """List the tenant's keys by id, including revoked ones; ``after`` is the last id of the previous page.

    Needs an admin key, as all routes of keys.
    """
    return await catalog.forward()


@router.get("/whoami")
async def show_own_key(caller: ReadCaller) -> OwnKey:
    """Return the key of the request: its tenant, id, name and scopes, and the version of MinT."""
    scopes = held_scopes(caller.authority.scopes)
    return OwnKey(
        tenant_id=caller.tenant_id,
        key_id=caller.key_id,
        name=caller.name,
        scopes=tuple(scope for scope in get_args(Scope) if scope in scopes),
        version=VERSION,
    )


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
