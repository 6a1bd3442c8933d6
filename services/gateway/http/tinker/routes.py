"""All routes under ``/api/v1``, including routes that are refused by name.

Their wire format is another project's, so our schema omits them.
"""

from collections.abc import Awaitable, Callable, Mapping

from fastapi import APIRouter, Response

from mint_common.errors import MintError
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


class NotServed(MintError):
    """{route} is not served here: {instead}"""

    code = "not_served"
    http_status = 422


EXTERNAL = "use save_weights_for_sampler, then download by external_weights_urls"
"""Instead of ``save_weights_external``."""

UNSUPPORTED: Mapping[tuple[str, str], str] = {
    ("POST", "create_custom_loss"): ("custom losses are computed by the client with forward_backward_custom"),
    ("GET", "sessions/{session_id}/trace_export"): (
        "traces are at the collector of MINT_TELEMETRY_OTLP_ENDPOINT, under each request's trace id"
    ),
    ("GET", "billing/usage/events"): "there is no billing; /metrics of each service shows the usage",
    ("GET", "billing/usage/checkpoints/current"): (
        "there is no billing; the lists of checkpoints show their sizes"
    ),
    ("GET", "audit"): "this server's audit log is GET /mint/v1/audit",
    ("POST", "auth/token"): "API keys are used directly: send one as X-API-Key",
    ("GET", "auth/apikey/me"): "list keys with 'mint key list'",
    ("DELETE", "auth/apikey/me"): "revoke keys with 'mint key revoke'",
}
"""Unsupported methods and routes under ``/api/v1``, each with its replacement."""

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
    """Refuse the request; clients number this operation, so its number is skipped."""
    raise NotServed(route="save_weights_external", instead=EXTERNAL)


router.add_api_route("/save_weights_external", _refuse_external, methods=["POST"])
for (_method, _route), _instead in UNSUPPORTED.items():
    router.add_api_route(f"/{_route}", _refusing(_route, _instead), methods=[_method])
