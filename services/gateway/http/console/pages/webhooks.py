"""``/console/webhooks``: the tenant's webhooks with their deliveries; a signing secret is shown once."""

import asyncio
from collections.abc import Mapping

from fastapi import APIRouter, Response

from services.gateway.http.console.api import ApiAnswer
from services.gateway.http.console.context import Visit, VisitDep
from services.gateway.http.console.pages.changes import refused_page, send_change
from services.gateway.http.console.route import ConsoleRoute, form_of
from services.gateway.http.edge.context import AdminCaller
from services.gateway.http.mint.event_types import EVENT_TYPES

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

LISTED = 100
"""Deliveries of a webhook's page."""
_SAID: Mapping[str, str] = {"active": "activated", "paused": "hook-paused"}


@router.get("/console/webhooks")
async def webhooks(_caller: AdminCaller, visit: VisitDep) -> Response:
    """Show the tenant's webhooks."""
    return await _listed(visit, typed={})


@router.post("/console/webhooks")
async def create_webhook(_caller: AdminCaller, visit: VisitDep) -> Response:
    """Create a webhook, and show its signing secret in the answer alone."""
    form = form_of(visit)
    names = [name.strip() for name in form.get("event_types", "").split(",")]
    body = {
        "url": form.get("url", "").strip(),
        "event_types": [name for name in names if name],
        "description": form.get("description", ""),
    }
    answer = await visit.send("POST", "mint", "v1", "webhooks", body=body)
    if not answer.is_ok:
        return await _listed(visit, typed=form, refused=answer)
    return _secret(visit, answer.data["webhook"]["webhook_id"], answer.data["secret"])


@router.get("/console/webhooks/{webhook}")
async def webhook(webhook: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Show a webhook and its newest deliveries."""
    place = ("mint", "v1", "webhooks", webhook)
    found, deliveries = await asyncio.gather(visit.get(*place), visit.get(*place, "deliveries", limit=LISTED))
    if not found.is_ok:
        return visit.missing(found, "webhooks")
    return visit.pages.show(
        visit, "webhook.html", section="webhooks", webhook=found.data, deliveries=deliveries
    )


@router.post("/console/webhooks/{webhook}/state")
async def set_state(webhook: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Pause a webhook, or activate a paused or disabled one."""
    state, here = form_of(visit).get("state", ""), ("webhooks", webhook)
    said = _SAID.get(state, "changed")
    return await send_change(visit, "PATCH", *here, body={"state": state}, here=here, said=said)


@router.post("/console/webhooks/{webhook}/rotate")
async def rotate_secret(webhook: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Create a new signing secret, and show it in the answer alone."""
    answer = await visit.send("POST", "mint", "v1", "webhooks", webhook, "rotate")
    if not answer.is_ok:
        return refused_page(visit, answer, "console", "webhooks")
    return _secret(visit, webhook, answer.data["secret"])


@router.post("/console/webhooks/{webhook}/remove")
async def remove(webhook: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Remove a webhook with its waiting deliveries."""
    return await send_change(visit, "DELETE", "webhooks", webhook, here=("webhooks",), said="removed")


@router.post("/console/webhooks/{webhook}/deliveries/{delivery}/replay")
async def replay(webhook: str, delivery: str, _caller: AdminCaller, visit: VisitDep) -> Response:
    """Send a delivery again."""
    here = ("webhooks", webhook)
    place = (*here, "deliveries", delivery, "replay")
    return await send_change(visit, "POST", *place, here=here, said="replayed")


async def _listed(visit: Visit, *, typed: Mapping[str, str], refused: ApiAnswer | None = None) -> Response:
    found = await visit.get("mint", "v1", "webhooks")
    return visit.pages.show(
        visit,
        "webhooks.html",
        section="webhooks",
        status=200 if refused is None else refused.status,
        found=found,
        types=EVENT_TYPES,
        typed=typed,
        refused=refused,
    )


def _secret(visit: Visit, webhook: str, secret: str) -> Response:
    return visit.pages.show(
        visit,
        "secret.html",
        section="webhooks",
        status=201,
        what=f"Signing secret of {webhook}",
        secret=secret,
        back=f"/console/webhooks/{webhook}",
    )
