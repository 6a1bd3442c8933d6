"""Internal HTTP of a pool of trainers: who is in it, and what one of them sends on to another."""

from fastapi import FastAPI, Request, Response

from mint_common.ids import TenantId
from services.trainer.handlers.operations import Operations
from services.trainer.handlers.pool_events import PoolEvents
from services.trainer.http.packed import packed


def add_routes(http: FastAPI, operations: Operations, events: PoolEvents) -> None:
    """Add the routes to the trainer's HTTP application."""

    @http.get("/internal/pool")
    async def pool(tenant_id: str) -> Response:
        """Answer which trainers the pool has, and what of a tenant is at work on each."""
        return packed(await operations.pool(TenantId(tenant_id)))

    @http.post("/internal/pool/events")
    async def take_in(request: Request) -> Response:
        """Answer when an event of a policy that is held here is handled: its cause if it was before."""
        return packed(await events.take_in(await request.body()))
