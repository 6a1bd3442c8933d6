"""Parts of the public schema that operations share: refusals in each API's format, and names in paths.

A route's class and method say which statuses it has; a route names only those of its own.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.routing import BaseRoute

from mint_common.json_types import JsonObject
from mint_common.names import BASE_NAME_PATTERN, NAME_PATTERN, SEGMENT_PATTERN
from services.gateway.http.edge.routes import Api, GatewayRoute

_DESCRIPTIONS: Mapping[int, str] = {
    304: "The client has this answer: its `If-None-Match` is the answer's ETag.",
    400: "The request cannot be read, or a field or parameter is wrong.",
    401: "The key is missing or unknown.",
    403: "The key lacks the scope of this operation.",
    404: "A name in the request is not known.",
    412: "What the request expects has changed.",
    413: "The body is too large.",
    422: "A field or parameter is wrong, or what was asked for is refused.",
    429: "The tenant has too much at a time.",
    502: "A service behind this one failed.",
    503: "A service behind this one does not answer.",
}
_DIGEST = "sha256:[0-9a-f]{64}"
_PATTERNS: Mapping[str, str | None] = {
    "policy": NAME_PATTERN,
    "alias": NAME_PATTERN,
    "base": BASE_NAME_PATTERN,
    "revision": f"^({_DIGEST}|[1-9][0-9]{{0,9}})$",
    "digest": f"^{_DIGEST}$",
    "model": None,
}
"""Patterns of names in paths, shown and not checked: another name is a 404. Others are `SEGMENT_PATTERN`."""
_RETRIED = frozenset({429, 502, 503})
_RETRY_AFTER: JsonObject = {"retry-after": {"description": "Seconds to wait", "schema": {"type": "integer"}}}
_TEXT: JsonObject = {"type": "string"}
_TEXT_OR_NULL: JsonObject = {"anyOf": [{"type": "string"}, {"type": "null"}]}


def _object(**properties: JsonObject) -> JsonObject:
    return {"type": "object", "required": list(properties), "properties": properties}


_ERRORS: Mapping[Api, tuple[str, JsonObject]] = {
    "mint": ("MintError", _object(error=_object(code=_TEXT, message=_TEXT, retryable={"type": "boolean"}))),
    "openai": (
        "OpenAIError",
        _object(error=_object(message=_TEXT, type=_TEXT, param=_TEXT_OR_NULL, code=_TEXT_OR_NULL)),
    ),
    "anthropic": (
        "AnthropicError",
        _object(type={"const": "error"}, error=_object(type=_TEXT, message=_TEXT), request_id=_TEXT),
    ),
    "tinker": ("TinkerError", _object(detail=_TEXT, code=_TEXT, fields={"type": "object"})),
}


def complete_operations(schema: dict[str, Any], routes: Iterable[BaseRoute]) -> None:  # Any: JSON
    """Add the statuses of each route to the schema, with their bodies, and the patterns of names."""
    components = schema["components"]
    shared = components["responses"] = {}
    for route in routes:
        if not isinstance(route, GatewayRoute) or not route.include_in_schema:
            continue
        name, shape = _ERRORS[route.api]
        components["schemas"][name] = shape
        content: JsonObject = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for status in route.other_statuses:
            shared[f"{name}{status}"] = _response(status, content)
        refs = {
            str(status): {"$ref": f"#/components/responses/{name}{status}"} for status in route.other_statuses
        }
        for method in route.methods:
            operation = schema["paths"][route.path_format][method.lower()]
            own = {code: each for code, each in operation["responses"].items() if not _is_frameworks(each)}
            for code, each in own.items():
                if code >= "400":
                    each.setdefault("content", content)
            operation["responses"] = dict(sorted((refs | own).items()))
            for parameter in operation.get("parameters", ()):
                pattern = _PATTERNS.get(parameter["name"], SEGMENT_PATTERN)
                if parameter["in"] == "path" and pattern and "enum" not in parameter["schema"]:
                    parameter["schema"].setdefault("pattern", pattern)
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)


def _response(status: int, content: JsonObject) -> JsonObject:
    response: JsonObject = {"description": _DESCRIPTIONS[status]}
    if status >= 400:
        response["content"] = content
    if status in _RETRIED:
        response["headers"] = _RETRY_AFTER
    return response


def _is_frameworks(response: Mapping[str, Any]) -> bool:
    """Return whether a response is FastAPI's 422, whose body has no route here."""
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("/HTTPValidationError")
