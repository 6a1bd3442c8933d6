"""The HTTP edge that all services share: health, metrics, traces, limits, and one shape for every error.

Every failed request is answered ``{"error": {"code", "message", "retryable", ...}}``: MintErrors with their
own status, bad input as 422 naming the field, unknown routes as 404, our own bugs as 500 (and in the log).
"""

import math
from collections.abc import Callable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from mint_common.errors import InvalidField, MintError
from mint_common.runtime.edge_middleware import EdgeMiddleware

DEFAULT_MAX_BODY_BYTES = 16 << 20

_CODES = {
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
}


def create_http(
    *,
    title: str,
    service: str,
    internal_token: str | None,
    ready: Callable[[], bool],
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
) -> FastAPI:
    """Return an application with everything but its own routes.

    Paths under ``/internal`` need the token, when one is given. ``http.state.registry`` is the Prometheus
    registry of this application; ``/metrics`` shows it together with the process-wide one.
    """
    http = FastAPI(title=title, docs_url=None, redoc_url=None)
    http.state.registry = CollectorRegistry()
    http.state.is_draining = False
    http.add_middleware(
        EdgeMiddleware,
        service=service,
        internal_token=internal_token,
        max_body_bytes=max_body_bytes,
        registry=http.state.registry,
    )
    http.add_exception_handler(MintError, _answer_mint_error)
    http.add_exception_handler(RequestValidationError, _answer_invalid)
    http.add_exception_handler(HTTPException, _answer_http_exception)
    _add_health(http, ready)
    return http


def error_response(error: MintError) -> JSONResponse:
    """Return the answer that every service gives for an error."""
    headers = {}
    if error.retryable:
        wait = error.fields.get("retry_after_seconds", 1)
        headers["retry-after"] = str(max(1, math.ceil(float(wait))))
    return JSONResponse({"error": error.to_payload()}, status_code=error.http_status, headers=headers)


def invalid_field(error: RequestValidationError) -> InvalidField:
    """Return the first thing wrong with a request's input, as a dotted path without its value."""
    first = error.errors()[0]
    where, *path = (str(part) for part in first["loc"])
    is_text = first["type"] == "json_invalid" or not path
    return InvalidField(
        field=where if is_text else ".".join(path), problem=first["msg"].removeprefix("Value error, ")
    )


def _add_health(http: FastAPI, ready: Callable[[], bool]) -> None:
    @http.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @http.get("/readyz", include_in_schema=False)
    async def readyz(response: Response) -> dict[str, str]:
        if http.state.is_draining:
            response.status_code = 503
            return {"status": "draining"}
        if not ready():
            response.status_code = 503
            return {"status": "starting"}
        return {"status": "ready"}

    @http.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        text = generate_latest(http.state.registry) + generate_latest(REGISTRY)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _answer_mint_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MintError)
    return error_response(error)


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_field(error))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = error.detail
    if error.status_code in {404, 405}:
        message = f"No route {request.method} {request.url.path}"
    code = _CODES.get(error.status_code, f"http_{error.status_code}")
    payload = {"code": code, "message": message, "retryable": False}
    return JSONResponse({"error": payload}, status_code=error.status_code, headers=error.headers)
