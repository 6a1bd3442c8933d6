"""All routes under ``/api/v1``, those included that are refused by name.

Their wire format is another project's, so our schema leaves them out.
"""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from services.gateway.core.tinker.unsupported import EXTERNAL, UNSUPPORTED, NotServed
from services.gateway.http.edge.context import ReadCaller, TrainCaller
from services.gateway.http.edge.routes import TinkerRoute
from services.gateway.http.tinker import (
    checkpoints,
    configuration,
    downloads,
    futures,
    listings,
    samplers,
    sessions,
    training,
    weights,
)
from services.gateway.http.tinker.errors import PREFIX
from services.gateway.http.tinker.operation_bodies import OperationBodyDep

router = APIRouter(prefix=PREFIX, include_in_schema=False, route_class=TinkerRoute)
for _module in (
    configuration,
    sessions,
    training,
    weights,
    downloads,
    checkpoints,
    listings,
    samplers,
    futures,
):
    router.include_router(_module.router)


def _refusing(route: str, instead: str) -> Callable[[ReadCaller], Awaitable[Response]]:
    async def refuse(_caller: ReadCaller) -> Response:
        raise NotServed(route=route, instead=instead)

    return refuse


async def _refuse_external(_body: OperationBodyDep, _caller: TrainCaller) -> Response:
    """Refuse it; clients number this operation, so its number is skipped."""
    raise NotServed(route="save_weights_external", instead=EXTERNAL)


router.add_api_route("/save_weights_external", _refuse_external, methods=["POST"])
for (_method, _route), _instead in UNSUPPORTED.items():
    router.add_api_route(f"/{_route}", _refusing(_route, _instead), methods=[_method])
