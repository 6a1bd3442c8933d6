"""All routes under ``/api/v1``, those included that are refused by name.

Their wire format is another project's, so our schema leaves them out.
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


EXTERNAL = "save weights with save_weights_for_sampler, and download them by external_weights_urls"
"""Instead of ``save_weights_external``."""

UNSUPPORTED: Mapping[tuple[str, str], str] = {
    ("POST", "create_custom_loss"): (
        "losses of one's own are computed by the client: use forward_backward_custom"
    ),
    ("GET", "sessions/{session_id}/trace_export"): (
        "traces go to the collector at MINT_TELEMETRY_OTLP_ENDPOINT, where every request's trace id finds it"
    ),
    ("GET", "billing/usage/events"): "nothing is billed; /metrics of each service counts what is used",
    ("GET", "billing/usage/checkpoints/current"): (
        "nothing is billed; the lists of checkpoints tell the size of each"
    ),
    ("GET", "audit"): "this server's own log of who did what is GET /mint/v1/audit",
    ("POST", "auth/token"): "keys are used as they are: send one as X-API-Key",
    ("GET", "auth/apikey/me"): "keys are looked at with 'mint key'",
    ("DELETE", "auth/apikey/me"): "keys are revoked with 'mint key'",
}
"""Method and route under ``/api/v1``, and what serves instead."""

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
