"""Collection of what nobody uses."""

from typing import Annotated

from fastapi import FastAPI
from pydantic import Field

from mint_common.catalog import CollectionReport
from services.registry.http.context import MAX_LIMIT, Body, Registry
from services.registry.http.revisions import DigestText


class CollectionBody(Body):
    """What must stay, whether to do anything, and how much at most."""

    used: Annotated[list[DigestText], Field(max_length=100_000)]
    dry_run: bool
    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)]


def add_collection_route(http: FastAPI, registry: Registry) -> None:
    """Add collection."""

    @http.post("/internal/collection")
    async def collect(body: CollectionBody) -> CollectionReport:
        return await registry.collector.collect(used=set(body.used), dry_run=body.dry_run, limit=body.limit)
