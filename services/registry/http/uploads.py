"""Uploads of adapters: the one route whose body is read as it comes."""

import re
from typing import Annotated

from fastapi import FastAPI, Query, Request

from mint_common.catalog import RevisionRecord
from services.registry.core.names import policy_key, revision_key
from services.registry.http.context import Registry, Tenant

_PATH = re.compile(r"/internal/tenants/[^/]+/policies/[^/]+/revisions")

Step = Annotated[int, Query(ge=0, le=2**63 - 1)]


def streams_body(method: str, path: str) -> bool:
    """Return whether a request is an upload."""
    return method == "POST" and _PATH.fullmatch(path) is not None


def add_upload_route(http: FastAPI, registry: Registry) -> None:
    """Add uploads."""

    @http.post("/internal/tenants/{tenant_id}/policies/{policy}/revisions", status_code=201)
    async def upload_revision(
        request: Request, tenant_id: Tenant, policy: str, step: Step = 0, parent: str | None = None
    ) -> RevisionRecord:
        found = await registry.catalog.policy(tenant_id, policy_key(policy))
        key = None if parent is None else revision_key(parent)
        return await registry.uploads.upload(found, request.stream(), step=step, parent=key)
