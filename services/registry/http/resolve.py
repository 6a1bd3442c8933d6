"""What a model name means now. A name never falls back to the base."""

from typing import Annotated

from fastapi import FastAPI, Query

from mint_common.catalog import Resolution
from services.registry.core.names import parse_model
from services.registry.http.context import Registry, Tenant


def add_resolve_route(http: FastAPI, registry: Registry) -> None:
    """Add the resolution of model names."""

    @http.get("/internal/tenants/{tenant_id}/resolve")
    async def resolve(tenant_id: Tenant, model: Annotated[str, Query(max_length=500)]) -> Resolution:
        return await registry.catalog.resolve(tenant_id, parse_model(model))
