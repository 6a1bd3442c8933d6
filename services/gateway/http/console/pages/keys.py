"""``/console/keys``: the tenant's keys and its audit log; a new key is shown once."""

import asyncio
from typing import Annotated, get_args

from fastapi import APIRouter, Query, Response

from mint_common.catalog import Scope
from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.pages.changes import send_change
from services.gateway.http.console.route import ConsoleRoute, form_of
from services.gateway.http.edge.context import AdminCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED = 100
"""Rows of the audit log on a page."""


@router.get("/console/keys")
async def keys(
    _caller: AdminCaller, visit: VisitDep, before: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    """Show the tenant's keys and its newest changes."""
    return await _shown(visit, before=before)


@router.post("/console/keys")
async def create_key(_caller: AdminCaller, visit: VisitDep) -> Response:
    """Create a key, and show it in the answer alone: no address and no other page has it."""
    form = form_of(visit)
    scopes = [scope for scope in get_args(Scope) if form.get(scope)]
    body = {"name": form.get("name", "").strip(), "scopes": scopes}
    answer = await visit.send("POST", "mint", "v1", "keys", body=body)
    if not answer.is_ok:
        return await _shown(visit, typed=form, refused=answer)
    return _secret(visit, f"Key {answer.data['name']}", answer.data["key"])


@router.post("/console/keys/{key}/rotate")
async def rotate_key(key: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Replace a key by a new one, and show that in the answer alone."""
    answer = await visit.send("POST", "mint", "v1", "keys", key, "rotate")
    if not answer.is_ok:
        return await _shown(visit, refused=answer)
    return _secret(visit, f"Key {answer.data['name']}", answer.data["key"])


@router.post("/console/keys/{key}/revoke")
async def revoke(key: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Revoke a key."""
    return await send_change(visit, "DELETE", "keys", key, here=("keys",), said="revoked")


async def _shown(
    visit: Visit,
    *,
    before: int | None = None,
    typed: dict[str, str] | None = None,
    refused: ApiAnswer | None = None,
) -> Response:
    found, audit = await asyncio.gather(
        visit.get("mint", "v1", "keys"), visit.get("mint", "v1", "audit", limit=LISTED, before=before)
    )
    may = visit.caller.authority.may
    return visit.pages.show(
        visit,
        "keys.html",
        section="keys",
        status=200 if refused is None else refused.status,
        found=found,
        audit=audit,
        scopes=[scope for scope in get_args(Scope) if may(scope)],
        typed=typed or {},
        refused=refused,
    )


def _secret(visit: Visit, what: str, secret: str) -> Response:
    return visit.pages.show(
        visit, "secret.html", section="keys", status=201, what=what, secret=secret, back="/console/keys"
    )
