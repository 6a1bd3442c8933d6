"""Routes by which gateways hand over rows stored by the previous version, for one minor version."""

from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from mint_common.json_types import JsonObject
from mint_common.runtime.edge_routes import BodyRoute
from services.rollout.adapters.handover_postgres import Table
from services.rollout.http.context import PartsDep, Tenant


class HandoverBody(BaseModel):
    """Rows of one table, as Postgres shows them in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    table: Table
    key: str
    rows: list[JsonObject]


router = APIRouter(prefix="/internal", route_class=BodyRoute)


@router.post("/handover")
async def take_over(body: HandoverBody, parts: PartsDep) -> Sequence[str]:
    """Return the keys of the rows that need not be sent again."""
    await parts.handover.take(body.table, body.rows)
    keys = [str(row[body.key]) for row in body.rows]
    return await parts.handover.stored_jobs(keys) if body.table == "submissions" else keys


@router.delete("/tenants/{tenant_id}/files/{file_id}", status_code=204)
async def note_removed_file(tenant_id: Tenant, file_id: str, parts: PartsDep) -> None:
    """Remove a file that a gateway of the version before has removed."""
    await parts.handover.remove_file(tenant_id, file_id)
