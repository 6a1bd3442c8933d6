"""Errors under ``/api/v1``: ``{"detail": ...}``, with statuses that stop clients from useless retries."""

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mint_common.errors import MintError
from mint_common.runtime.edge_errors import invalid_field, refusal_message, retry_headers

PREFIX = "/api/v1"
RETRY_HEADER = "x-should-retry"
_RETRIED = frozenset({408, 409, 429})
"""Statuses, beside 5xx, that clients retry for minutes."""


def mint_error_response(error: MintError) -> Response:
    """Return the answer to Tinker clients for an error: its sentence, and its code and fields for programs.

    Clients retry its status only if a retry can help.
    """
    is_in_vain = error.http_status in _RETRIED and not error.retryable
    body = {"detail": str(error), "code": error.code, "fields": dict(error.fields)}
    headers = {RETRY_HEADER: str(error.retryable).lower(), **retry_headers(error)}
    return JSONResponse(body, 422 if is_in_vain else error.http_status, headers=headers)


async def on_mint_error(_request: Request, error: Exception) -> Response:
    """Answer a MintError."""
    assert isinstance(error, MintError)
    return mint_error_response(error)


async def on_invalid_request(request: Request, error: Exception) -> Response:
    """Answer a bad parameter of a path or query."""
    assert isinstance(error, RequestValidationError)
    return await on_mint_error(request, invalid_field(error))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown route."""
    assert isinstance(error, HTTPException)
    message = refusal_message(request, error, hint=" here: docs/guides/tinker.md lists what is served")
    body = {"detail": message, "code": "not_found", "fields": {}}
    return JSONResponse(body, error.status_code, headers={**(error.headers or {}), RETRY_HEADER: "false"})
