"""``/mint/v1/bases``: the resident base models and their limits."""

from fastapi import APIRouter

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.ids import BaseName
from services.gateway.http.edge.context import GatewayDep, ReadCaller
from services.gateway.http.edge.recording import RecordedRoute

router = APIRouter(prefix="/mint/v1/bases", tags=["bases"], route_class=RecordedRoute)


@router.get("")
async def list_bases(_caller: ReadCaller, gateway: GatewayDep) -> list[BaseFacts]:
    """List the bases that policies can be trained over."""
    return await gateway.registry.list_bases()


@router.get("/{base}")
async def get_base(base: str, _caller: ReadCaller, gateway: GatewayDep) -> BaseFacts:
    """Return one base."""
    return await gateway.registry.get_base(BaseName(base))
