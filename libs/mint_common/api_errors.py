"""Errors in the shapes of the inference APIs, with the statuses that their clients know."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mint_common.errors import InvalidField, MintError, NotFound, Overloaded, Unauthorized
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import ContextExceeded

InferenceApi = Literal["openai", "anthropic"]

_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}

_NO_THREADS = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
"""Details that have Anthropic's clients send the whole conversation instead of a thread's new messages."""
_LISTED = " GET /v1/models lists the models."


def error_status(error: MintError) -> int:
    """Return the HTTP status: these APIs answer 400 where MinT's own answers 422."""
    return 400 if error.http_status == 422 else error.http_status


def error_body(error: MintError, *, api: InferenceApi = "openai") -> dict[str, Any]:
    """Return ``{"error": {message, type, param, code}}``, or Anthropic's ``{"type": "error", "error": ...}``.

    Any: a JSON object.
    """
    message = str(error)
    if isinstance(error, NotFound) and error.fields.get("kind") in {"model", "policy"}:
        message += "" if error.fields.get("near") else _LISTED
    if api == "anthropic":
        body = anthropic_body(message, status=error_status(error))
        if isinstance(error, InvalidField) and error.field == "thread":
            body["error"]["details"] = _NO_THREADS
        return body
    kind, param, code = _classify(error)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def anthropic_body(message: str, *, status: int) -> dict[str, Any]:
    """Return an error in Anthropic's shape."""
    other = "api_error" if status >= 500 else "invalid_request_error"
    return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, other), "message": message}}


def plain_error_body(message: str, *, status: int) -> dict[str, Any]:
    """Return OpenAI's body for an error other than MintError, such as an unknown route."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_event(operation: ApiOperation, error: MintError) -> bytes:
    """Return the event that ends a stream of an operation when what makes it has failed."""
    if operation.is_anthropic:
        return _event(error_body(error, api="anthropic"), name="error")
    if operation is ApiOperation.RESPONSE:
        told = {"type": "error", "code": error.code, "message": str(error), "param": None}
        return _event({**told, "sequence_number": 0}, name="error")
    return _event(error_body(error))


def _event(body: Mapping[str, Any], *, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(body) + b"\n\n"


def _classify(error: MintError) -> tuple[str, str | None, str]:
    if isinstance(error, NotFound):
        return "invalid_request_error", "model", "model_not_found"
    if isinstance(error, ContextExceeded):
        return "invalid_request_error", str(error.field), error.code
    if isinstance(error, InvalidField):
        return "invalid_request_error", str(error.field), InvalidField.code
    if isinstance(error, Unauthorized):
        return "invalid_request_error", None, "invalid_api_key"
    if isinstance(error, Overloaded):
        return "rate_limit_error", None, error.code
    return ("server_error" if error.http_status >= 500 else "invalid_request_error"), None, error.code
