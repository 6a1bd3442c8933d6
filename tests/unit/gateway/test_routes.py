"""An application starts only when every route says which scope it takes, or is open on purpose."""

import pytest
from fastapi import APIRouter, FastAPI

from services.gateway.http.edge.context import AdminCaller, CallerDep, ReadCaller
from services.gateway.http.edge.routes import OPEN_PATHS, GatewayRoute, check_routes
from services.gateway.http.public import build_http


def test_every_route_but_the_open_ones_says_its_scope():
    routes = build_http(ready=lambda: True).routes
    open_routes = {route.path for route in routes if not isinstance(route, GatewayRoute)}
    assert open_routes == OPEN_PATHS


def test_a_route_without_a_scope_is_refused_when_it_is_made():
    router = APIRouter(route_class=GatewayRoute)

    async def lacks(caller: CallerDep) -> None:
        del caller

    async def doubts(reader: ReadCaller, admin: AdminCaller) -> None:
        del reader, admin

    for endpoint in (lacks, doubts):
        with pytest.raises(TypeError, match=r"\['POST'\] /x: .*exactly one of ReadCaller"):
            router.add_api_route("/x", endpoint, methods=["POST"])


def test_an_application_with_a_route_of_another_class_does_not_start():
    http = FastAPI()
    router = APIRouter()

    @router.get("/x")
    async def no_key() -> None: ...

    http.include_router(router)
    with pytest.raises(TypeError, match="has no key"):
        check_routes(http)
