"""One shape for every failed request: ``{"error": {"code", "message", "retryable", ...}}``."""

import math

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mint_common.errors import InvalidField, MintError, RangeBeyond

NO_OBJECT = "must be a JSON object, sent with 'content-type: application/json'"
_CODES = {404: "not_found", 405: "method_not_allowed"}


def answer_errors(http: FastAPI) -> None:
    """Give an application the handlers that answer MintErrors, bad input and the framework's refusals."""
    http.add_exception_handler(MintError, _answer_mint_error)
    http.add_exception_handler(RequestValidationError, _answer_invalid)
    http.add_exception_handler(HTTPException, _answer_http_exception)


def error_response(error: MintError) -> JSONResponse:
    """Return the answer that every service gives for an error."""
    headers = retry_headers(error)
    if isinstance(error, RangeBeyond):
        headers["content-range"] = f"bytes */{error.size_bytes}"
    return JSONResponse({"error": error.to_payload()}, status_code=error.http_status, headers=headers)


def retry_headers(error: MintError) -> dict[str, str]:
    """Return ``retry-after`` in whole seconds for an error that may pass, nothing for others."""
    if not error.retryable:
        return {}
    wait = error.fields.get("retry_after_seconds", 1)
    return {"retry-after": str(max(1, math.ceil(float(wait))))}


def is_no_object(error: RequestValidationError) -> bool:
    """Return whether an error says that the body is not a JSON object or has another media type."""
    first = error.errors()[0]
    return first["loc"] == ("body",) and first["type"] in {"dataclass_type", "model_attributes_type"}


def invalid_field(error: RequestValidationError) -> InvalidField:
    """Return the first thing wrong with a request's input, as a dotted path without its value."""
    first = error.errors()[0]
    where, *path = (str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        problem = f"is not JSON at character {path[0]}: {first['ctx']['error']}"
        return InvalidField(field=where, problem=problem)
    if is_no_object(error):
        return InvalidField(field=where, problem=NO_OBJECT)
    return InvalidField(
        field=".".join(path) if path else where, problem=first["msg"].removeprefix("Value error, ")
    )


async def _answer_mint_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, MintError)
    return error_response(error)


async def _answer_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(invalid_field(error))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return framework_refusal(request, error)


def framework_refusal(request: Request, error: HTTPException, *, hint: str = "") -> JSONResponse:
    """Return the answer to the framework's refusals; ``hint`` is that of `refusal_message`."""
    code = _CODES.get(error.status_code, f"http_{error.status_code}")
    payload = {"code": code, "message": refusal_message(request, error, hint=hint), "retryable": False}
    return JSONResponse({"error": payload}, status_code=error.status_code, headers=error.headers)


def refusal_message(request: Request, error: HTTPException, *, hint: str) -> str:
    """Return the message of the framework's refusal.

    For an unknown route or method it names both and appends ``hint``.
    """
    if error.status_code in _CODES:
        return f"No route {request.method} {request.url.path}{hint}"
    return error.detail
