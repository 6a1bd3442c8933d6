"""Routes that clients know and this server leaves out: each says so, and what serves instead."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from services.gateway.core.tinker.left_out import EXTERNAL, LEFT_OUT, NotServed
from services.gateway.http.context import ReadCaller, TrainCaller
from services.gateway.http.routes import TinkerRoute
from services.gateway.http.tinker.places import PlacedBodyDep

router = APIRouter(route_class=TinkerRoute)


def _refusing(route: str, instead: str) -> Callable[[ReadCaller], Awaitable[Response]]:
    async def refuse(_caller: ReadCaller) -> Response:
        raise NotServed(route=route, instead=instead)

    return refuse


async def _refuse_external(_body: PlacedBodyDep, _caller: TrainCaller) -> Response:
    """Clients number this one: its place is skipped."""
    raise NotServed(route="save_weights_external", instead=EXTERNAL)


router.add_api_route("/save_weights_external", _refuse_external, methods=["POST"])
for (_method, _route), _instead in LEFT_OUT.items():
    router.add_api_route(f"/{_route}", _refusing(_route, _instead), methods=[_method])
