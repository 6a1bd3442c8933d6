"""``/mint/v1/audit``: changes through the API, with caller and status."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.gateway.core.audit import AuditRow
from services.gateway.http.edge.context import AdminCaller, EdgeDep, LimitQuery
from services.gateway.http.edge.routes import GatewayRoute

PlaceQuery = Annotated[int | None, Query(ge=0, le=2**62)]

router = APIRouter(prefix="/mint/v1/audit", tags=["audit"], route_class=GatewayRoute)


@router.get("")
async def list_audit(
    caller: AdminCaller, edge: EdgeDep, limit: LimitQuery = 100, before: PlaceQuery = None
) -> list[AuditRow]:
    """List the tenant's changes, newest first; ``before`` is the last place of the previous page.

    Needs an admin key. Changes by rules are in the histories of their aliases.
    """
    return list(await edge.requests.audit(caller.tenant_id, limit=limit, before=before))
