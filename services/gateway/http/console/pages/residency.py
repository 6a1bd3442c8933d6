"""``/console/residency``: which revisions are where on which engine, and what changed there."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Response

from services.gateway.http.console.context import VisitDep
from services.gateway.http.console.route import ConsoleRoute
from services.gateway.http.edge.context import ReadCaller

router = APIRouter(include_in_schema=False, route_class=ConsoleRoute)

SHOWN = 200
"""Maximum rows of the page."""
_TIERS = ("slot", "host", "disk", "stored")


@router.get("/console/residency")
async def residency(
    _caller: ReadCaller, visit: VisitDep, policy: Annotated[str, Query(max_length=200)] = ""
) -> Response:
    """Show engines, and the tenant's revisions on them: those that wait first, then by tier and last use."""
    engines, adapters, changes = await asyncio.gather(
        visit.get("mint", "v1", "engines"),
        visit.get("mint", "v1", "adapters"),
        visit.get("mint", "v1", "adapters", "changes"),
    )
    history = [each for each in (changes.data if changes.is_ok else []) if policy in each["policy"]]
    rows = [each for each in (adapters.data if adapters.is_ok else []) if policy in each["policy"]]
    rows.sort(key=_order)
    return visit.pages.show(
        visit,
        "residency.html",
        section="residency",
        engines=engines,
        adapters=adapters,
        changes=changes,
        history=history[:SHOWN],
        rows=rows[:SHOWN],
        total=len(rows),
        policy=policy,
    )


def _order(row: dict[str, object]) -> tuple[object, ...]:
    position, tier = row["queue_position"], row["tier"]
    place = _TIERS.index(str(tier)) if tier in _TIERS else len(_TIERS)
    return position is None, position or 0, place, -float(str(row["last_used_at"]))
