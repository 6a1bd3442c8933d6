"""Errors as Tinker clients read them: ``{"detail": ...}``, and a status that says whether to try again."""

from mint_common.errors import MintError
from services.gateway.core.json_types import JsonObject

_RETRIED = frozenset({408, 409, 429})
"""Beside 5xx, what clients try again for minutes."""


def error_status(error: MintError) -> int:
    """Return the HTTP status: none that clients try again unless a retry can help."""
    is_retried = error.http_status in _RETRIED
    return 422 if is_retried and not error.retryable else error.http_status


def error_body(error: MintError) -> JsonObject:
    """Return the sentence, and for programs its code and fields."""
    return {"detail": str(error), "code": error.code, "fields": dict(error.fields)}


def plain_error_body(message: str) -> JsonObject:
    """Return the same shape for an error that is no MintError, such as an unknown route."""
    return {"detail": message, "code": "not_found", "fields": {}}
