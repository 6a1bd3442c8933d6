"""Internal HTTP of the checkpoints that clients named, in msgpack."""

from typing import Annotated, Literal

import msgspec
from fastapi import Depends, FastAPI, Query, Request, Response

from mint_common.ids import PolicyId, TenantId
from mint_common.training import CheckpointRef
from services.trainer.core.operation_check import check_copy, check_ttl
from services.trainer.core.operations import expiry_of
from services.trainer.handlers.lease_term import OperationParts
from services.trainer.http.packed import packed, read_packed

_ONE = "/internal/checkpoints/{policy_id}/{kind}/{name}"
Kind = Literal["training", "sampler"]


MAX_SUMMARIES = 1000
"""Policies of one request."""
Policies = Annotated[list[PolicyId], msgspec.Meta(max_length=MAX_SUMMARIES)]


class _Ttl(msgspec.Struct):
    ttl_seconds: int | None


class _Public(msgspec.Struct):
    is_public: bool


class _Copy(msgspec.Struct):
    target: CheckpointRef
    tenant_id: TenantId
    ttl_seconds: int | None


async def _ref(policy_id: str, kind: Kind, name: str) -> CheckpointRef:
    # Async, though it waits for nothing: FastAPI sends every request through a thread for a plain function.
    return CheckpointRef(policy_id=PolicyId(policy_id), kind=kind, name=name)


Ref = Annotated[CheckpointRef, Depends(_ref)]


def add_routes(http: FastAPI, parts: OperationParts) -> None:
    """Add the routes to the trainer's HTTP application. All but that of a page may answer NotFound."""
    rows, clock = parts.rows, parts.clock

    @http.get("/internal/checkpoints")
    async def page(
        tenant_id: str,
        policy_id: str | None = None,
        limit: int = Query(1000, ge=1, le=10_000),
        after: str | None = None,
    ) -> Response:
        """Answer a tenant's checkpoints, newest first."""
        policy, now = None if policy_id is None else PolicyId(policy_id), clock.now()
        return packed(
            await rows.page(TenantId(tenant_id), policy_id=policy, limit=limit, after=after, now=now)
        )

    @http.post("/internal/training/summaries")
    async def summaries(request: Request) -> Response:
        """Answer what lists show of policies."""
        policies = read_packed(await request.body(), Policies)
        return packed(await rows.summaries(policies, now=clock.now()))

    @http.get(_ONE)
    async def get(ref: Ref) -> Response:
        """Answer one checkpoint, of any tenant."""
        return packed(await rows.get(ref, now=clock.now()))

    @http.delete(_ONE, status_code=204)
    async def delete(ref: Ref) -> Response:
        """Remove a checkpoint, and its bytes when nothing else uses them."""
        await parts.discard(await rows.delete(ref, now=clock.now()))
        return Response(status_code=204)

    @http.put(_ONE + "/ttl")
    async def expire(ref: Ref, request: Request) -> Response:
        """Set how long a checkpoint lives from now on, None for ever."""
        ttl, now = read_packed(await request.body(), _Ttl).ttl_seconds, clock.now()
        check_ttl(ttl)
        return packed(await rows.expire(ref, expires_at=expiry_of(ttl, now=now), now=now))

    @http.put(_ONE + "/public")
    async def publish(ref: Ref, request: Request) -> Response:
        """Set whether other tenants may read a checkpoint."""
        is_public = read_packed(await request.body(), _Public).is_public
        return packed(await rows.publish(ref, is_public=is_public, now=clock.now()))

    @http.post(_ONE + "/copy")
    async def copy(ref: Ref, request: Request) -> Response:
        """Give a checkpoint a second row, of a policy of a tenant who may read it."""
        body, now = read_packed(await request.body(), _Copy), clock.now()
        check_copy(ref, body.target)
        check_ttl(body.ttl_seconds)
        expires_at = expiry_of(body.ttl_seconds, now=now)
        copied = await rows.copy(ref, body.target, tenant_id=body.tenant_id, expires_at=expires_at, now=now)
        return packed(copied)
