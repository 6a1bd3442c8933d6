"""Internal HTTP of the checkpoints that clients named, in msgpack."""

from typing import Literal

import msgspec
from fastapi import FastAPI, Query, Request, Response

from mint_common.ids import PolicyId, TenantId
from mint_common.training import CheckpointRef
from services.trainer.handlers.checkpoint_admin import CheckpointAdmin
from services.trainer.http.packed import packed, read_packed

_ONE = "/internal/checkpoints/{policy_id}/{kind}/{name}"
Kind = Literal["training", "sampler"]


class _Ttl(msgspec.Struct):
    ttl_seconds: int | None


class _Public(msgspec.Struct):
    is_public: bool


class _Copy(msgspec.Struct):
    target: CheckpointRef
    tenant_id: TenantId
    ttl_seconds: int | None


def add_routes(http: FastAPI, keeping: CheckpointAdmin) -> None:
    """Add the routes to the trainer's HTTP application."""

    @http.get("/internal/checkpoints")
    async def page(
        tenant_id: str,
        policy_id: str | None = None,
        limit: int = Query(1000, ge=1, le=10_000),
        after: str | None = None,
    ) -> Response:
        """Answer a tenant's checkpoints, newest first."""
        policy = None if policy_id is None else PolicyId(policy_id)
        return packed(await keeping.page(TenantId(tenant_id), policy_id=policy, limit=limit, after=after))

    @http.get(_ONE)
    async def get(policy_id: str, kind: Kind, name: str) -> Response:
        """Answer one checkpoint."""
        return packed(await keeping.get(_ref(policy_id, kind, name)))

    @http.delete(_ONE, status_code=204)
    async def delete(policy_id: str, kind: Kind, name: str) -> Response:
        """Remove a checkpoint."""
        await keeping.delete(_ref(policy_id, kind, name))
        return Response(status_code=204)

    @http.put(_ONE + "/ttl")
    async def expire(policy_id: str, kind: Kind, name: str, request: Request) -> Response:
        """Set how long a checkpoint lives from now on."""
        ttl = read_packed(await request.body(), _Ttl).ttl_seconds
        return packed(await keeping.expire(_ref(policy_id, kind, name), ttl_seconds=ttl))

    @http.put(_ONE + "/public")
    async def publish(policy_id: str, kind: Kind, name: str, request: Request) -> Response:
        """Set whether other tenants may read a checkpoint."""
        is_public = read_packed(await request.body(), _Public).is_public
        return packed(await keeping.publish(_ref(policy_id, kind, name), is_public=is_public))

    @http.post(_ONE + "/copy")
    async def copy(policy_id: str, kind: Kind, name: str, request: Request) -> Response:
        """Give a checkpoint a second row."""
        body = read_packed(await request.body(), _Copy)
        source = _ref(policy_id, kind, name)
        copied = await keeping.copy(
            source, body.target, tenant_id=body.tenant_id, ttl_seconds=body.ttl_seconds
        )
        return packed(copied)


def _ref(policy_id: str, kind: Kind, name: str) -> CheckpointRef:
    return CheckpointRef(policy_id=PolicyId(policy_id), kind=kind, name=name)
