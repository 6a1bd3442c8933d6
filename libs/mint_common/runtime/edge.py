"""The HTTP edge that all services share: health, metrics, traces, limits, and one shape for every error.

Every failed request is answered ``{"error": {"code", "message", "retryable", ...}}``: MintErrors with their
own status, bad input as 422 naming the field, unknown routes as 404, our own bugs as 500 (and in the log).
"""

from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from mint_common.runtime.draining import RequestsInHand
from mint_common.runtime.edge_errors import answer_errors, error_response
from mint_common.runtime.edge_middleware import EdgeMiddleware, Shaped
from mint_common.runtime.edge_series import MetricsText, state_series

DEFAULT_MAX_BODY_BYTES = 16 << 20


def create_http(
    *,
    title: str,
    service: str,
    internal_token: str | None,
    ready: Callable[[], bool],
    trusts_traces: bool = True,
    max_body_bytes: int | None = DEFAULT_MAX_BODY_BYTES,
    shaped: Shaped = lambda _scope, error: error_response(error),
) -> FastAPI:
    """Return an application with everything but its own routes.

    Paths under ``/internal`` need the token, when one is given. ``trusts_traces``: a request continues the
    trace that its headers name, else it begins one with a link to that. Without
    ``max_body_bytes`` bodies reach their routes unread: those are `BodyRoute`s or read, bound and check them
    otherwise. ``shaped(scope, error)`` is the answer for what no handler has seen. ``http.state.registry`` is
    the Prometheus registry of this application; ``/metrics`` shows it together with the process-wide one.
    ``http.state.in_hand`` are its open requests.
    """
    # A redirect to the path with or without its last slash would be built from the Host header.
    http = FastAPI(title=title, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    http.state.registry = CollectorRegistry()
    http.state.in_hand = RequestsInHand()
    http.add_middleware(
        EdgeMiddleware,
        service=service,
        internal_token=internal_token,
        trusts_traces=trusts_traces,
        max_body_bytes=max_body_bytes,
        registry=http.state.registry,
        in_hand=http.state.in_hand,
        shaped=shaped,
    )
    answer_errors(http)
    _add_health(http, ready)
    state_series(
        service,
        http.state.registry,
        ready=lambda: ready() and not http.state.in_hand.is_draining,
        open_requests=http.state.in_hand,
    )
    _add_schema(http)
    return http


def _add_schema(http: FastAPI) -> None:
    """Add ``/openapi.json``, generated once: it is public, and generating it takes at least 10 ms."""
    written: list[bytes] = []

    @http.get("/openapi.json", include_in_schema=False)
    async def schema() -> Response:
        if not written:
            written.append(bytes(JSONResponse(http.openapi()).body))
        return Response(written[0], media_type="application/json")


def _add_health(http: FastAPI, ready: Callable[[], bool]) -> None:
    @http.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @http.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> dict[str, str]:
        if http.state.in_hand.is_draining:
            response.status_code = 503
            return {"status": "draining"}
        if not ready():
            response.status_code = 503
            return {"status": "starting"}
        return {"status": "ready"}

    text = MetricsText(lambda: generate_latest(http.state.registry) + generate_latest(REGISTRY))

    @http.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(await text.read(), media_type=CONTENT_TYPE_LATEST)
