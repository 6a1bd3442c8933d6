"""Errors in the shape of the API that a request is for: OpenAI's, Tinker's or MinT's own."""

import difflib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from mint_common.api_errors import anthropic_body, error_body, error_status, plain_error_body
from mint_common.errors import InvalidField, MintError
from mint_common.runtime.edge_errors import (
    NO_OBJECT,
    error_response,
    framework_refusal,
    is_no_object,
    refusal_message,
    retry_headers,
)
from mint_common.telemetry.tracing import request_id
from services.gateway.http.edge.refusal_log import note_refusal
from services.gateway.http.edge.routes import Api, GatewayRoute
from services.gateway.http.tinker import errors as tinker_errors

Handler = Callable[[Request, Exception], Awaitable[Response]]


_PREFIXES: Mapping[str, Api] = {
    "/v1/messages": "anthropic",
    "/v1/": "openai",
    f"{tinker_errors.PREFIX}/": "tinker",
}
"""APIs by path prefix, for requests that match no route."""
ANTHROPIC_REQUEST_HEADER = "request-id"
_EMBEDDINGS = ": a base here generates text; embeddings are not served"
_DOUBLED = "; the client adds /v1 itself: give it the address without /v1"
_ALL_ROUTES = "; GET /docs lists all. Give OpenAI's clients an address that ends with /v1."
_MAX_COMPARED = 40
"""Maximum characters of a part of a path that is compared: keyless callers choose it."""
_LIKE = 0.6
"""Minimum likeness of two parts, of 1: that of `difflib`."""


def install_error_shapes(http: FastAPI) -> None:
    """Answer errors of each API in its shape; errors of MinT's API keep the installed shape."""
    http.add_exception_handler(HTTPException, _on_mint_http_exception)
    for error_type, openai_handler, tinker_handler in (
        (MintError, _on_mint_error, tinker_errors.on_mint_error),
        (RequestValidationError, _on_invalid_request, tinker_errors.on_invalid_request),
        (HTTPException, _on_http_exception, tinker_errors.on_http_exception),
    ):
        handlers: Mapping[Api, Handler] = {
            "mint": cast(Handler, http.exception_handlers[error_type]),
            "openai": openai_handler,
            "anthropic": openai_handler,
            "tinker": tinker_handler,
        }
        http.add_exception_handler(error_type, _by_api(handlers))


def shaped_error(scope: Scope, error: MintError) -> Response:
    """Return the answer for an error that no handler caught, such as a bug."""
    note_refusal(scope, error)
    match _api_of(scope):
        case "openai" | "anthropic":
            return inference_error_response(scope, error)
        case "tinker":
            return tinker_errors.mint_error_response(error)
        case "mint":
            return error_response(error)


def _by_api(handlers: Mapping[Api, Handler]) -> Handler:
    async def choose(request: Request, error: Exception) -> Response:
        note_refusal(request.scope, error)
        if isinstance(error, HTTPException) and error.status_code == 405:
            error.headers = {"allow": ", ".join(sorted(_methods_of(request)))}
        return await handlers[_api_of(request.scope)](request, error)

    return choose


def _methods_of(request: Request) -> set[str]:
    """Return the methods of a path's routes; Starlette names those of the first one."""
    routes = (each for each in request.app.routes if each.matches(request.scope)[0] is not Match.NONE)
    return {method for route in routes for method in route.methods}


def _api_of(scope: Scope) -> Api:
    route = scope.get("route")
    if isinstance(route, GatewayRoute):
        return route.api
    return next((api for prefix, api in _PREFIXES.items() if scope["path"].startswith(prefix)), "mint")


def inference_error_response(scope: Scope, error: MintError) -> Response:
    """Return the answer of the OpenAI API or Anthropic's API for an error."""
    body = error_body(error, api="anthropic" if _api_of(scope) == "anthropic" else "openai")
    return _inference_answer(scope, body, error_status(error), retry_headers(error))


def _inference_answer(
    scope: Scope, body: Mapping[str, Any], status: int, headers: Mapping[str, str] | None
) -> Response:  # Any: a JSON object
    if _api_of(scope) == "anthropic":
        body = {**body, "request_id": request_id()}
        headers = {**(headers or {}), ANTHROPIC_REQUEST_HEADER: request_id()}
    return JSONResponse(body, status, headers=headers)


async def _on_mint_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MintError)
    return inference_error_response(request.scope, error)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    is_unknown = first["type"] == "unexpected_keyword_argument"
    problem = "is not supported here" if is_unknown else str(first["msg"])
    if is_no_object(error):
        problem = NO_OBJECT
    # A union adds the name of each of its types to the path; users know the top field. After
    # "body" stands a position when the text is no JSON.
    field = next((part for part in first["loc"][1:] if isinstance(part, str)), "body")
    return await _on_mint_error(request, InvalidField(field=field, problem=problem))


async def _on_mint_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return framework_refusal(request, error, hint=_hint(request))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shaped = anthropic_body if _api_of(request.scope) == "anthropic" else plain_error_body
    message = refusal_message(request, error, hint=_hint(request))
    body = shaped(message, status=error.status_code)
    return _inference_answer(request.scope, body, error.status_code, error.headers)


def _hint(request: Request) -> str:
    """Return what the caller of an unknown route may have meant."""
    path = request.url.path
    if path == "/v1/embeddings":
        return _EMBEDDINGS
    if path.startswith("/v1/v1/"):
        return _DOUBLED
    near = max((_near(route.path_format, path) for route in request.app.routes), default=(0.0, ""))[1]
    if near:
        return f". There is: {near}"
    return "; GET /docs lists all." if path.startswith("/v1/") else _ALL_ROUTES


def _near(pattern: str, path: str) -> tuple[float, str]:
    """Return how like a route's path is, and it with a path's names; ``""`` unless one part alone differs."""
    pairs = list(zip(pattern.split("/"), path.split("/"), strict=False))
    wrong = [pair for pair in pairs if pair[0] != pair[1] and not pair[0].startswith("{")]
    if pattern.count("/") != path.count("/") or len(wrong) != 1 or len(wrong[0][1]) > _MAX_COMPARED:
        return 0.0, ""
    likeness = difflib.SequenceMatcher(None, *wrong[0]).ratio()
    named = "/".join(given if part.startswith("{") else part for part, given in pairs)
    return (likeness, named) if likeness >= _LIKE else (0.0, "")
