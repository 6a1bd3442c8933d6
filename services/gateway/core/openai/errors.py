"""Errors in the shape of the OpenAI API, with the statuses that its clients know."""

from mint_common.errors import (
    InvalidField,
    MintError,
    NotFound,
    Overloaded,
    Unauthorized,
)
from services.gateway.core.json_types import JsonObject

_FIELDS = {"sampling.max_new_tokens": "max_tokens", "text": "prompt", "tokens": "prompt"}
"""Fields of the internal protocol that an engine may refuse -> what they are called in the OpenAI API."""


def error_status(error: MintError) -> int:
    """Return the HTTP status: the OpenAI API answers 400 where MinT's own answers 422."""
    return 400 if error.http_status == 422 else error.http_status


def error_body(error: MintError) -> JsonObject:
    """Return ``{"error": {message, type, param, code}}``."""
    if isinstance(error, InvalidField):
        field = str(error.field)
        field = _FIELDS.get(field, field.removeprefix("sampling."))
        error = InvalidField(field=field, problem=error.problem)
    kind, param, code = _classify(error)
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def plain_error_body(message: str, *, status: int) -> JsonObject:
    """Return the same shape for an error that is no MintError, such as an unknown route."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _classify(error: MintError) -> tuple[str, str | None, str]:
    if isinstance(error, NotFound):
        return "invalid_request_error", "model", "model_not_found"
    if isinstance(error, InvalidField):
        return "invalid_request_error", str(error.field), error.code
    if isinstance(error, Unauthorized):
        return "invalid_request_error", None, "invalid_api_key"
    if isinstance(error, Overloaded):
        return "rate_limit_error", None, error.code
    return ("server_error" if error.http_status >= 500 else "invalid_request_error"), None, error.code
