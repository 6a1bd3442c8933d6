"""The routes of files: recorded like MinT's own, with errors in OpenAI's shape."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from mint_common.algorithms import one_of
from mint_common.api_errors import error_status
from mint_common.authority import Caller
from mint_common.errors import InvalidField, MintError, NotFound
from mint_common.file_requests import PURPOSES
from mint_common.job_errors import DatasetRefused
from mint_common.json_types import JsonObject
from mint_common.runtime.edge_errors import retry_headers
from mint_common.runtime.edge_routes import Handler
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.edge.refusal_log import note_refusal


class FilesRoute(RecordedRoute):
    """A route of files or uploads."""

    api = "openai"

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request; errors name the parameters and lines of a file."""
        try:
            return await super().serve(request, caller, carry_out)
        except MintError as error:
            note_refusal(request.scope, error)
            return JSONResponse(file_error_body(error), error_status(error), headers=retry_headers(error))


def file_error_body(error: MintError) -> JsonObject:
    """Return ``{"error": {message, type, param, code}}``; for rows also ``line, errors, count``."""
    kind = "server_error" if error.http_status >= 500 else "invalid_request_error"
    told: JsonObject = {"message": str(error), "type": kind, "param": _param(error), "code": error.code}
    if isinstance(error, DatasetRefused):
        told |= {"errors": error.errors, "count": error.count}
    if "line" in error.fields:
        told["line"] = error.fields["line"]
    return {"error": told}


def _param(error: MintError) -> str | None:
    match error:
        case InvalidField():
            return str(error.field)
        case DatasetRefused():
            return "file"
        case NotFound():
            return f"{error.kind}_id"
    return None


def form_schema(file_field: str, *, fields: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the public schema of a form."""
    properties: dict[str, dict[str, Any]] = {name: {"type": "string"} for name in fields}
    if "purpose" in fields:
        properties["purpose"] |= one_of(PURPOSES)
    properties[file_field] = {"type": "string", "format": "binary"}
    required = [file_field, *(name for name in fields if "[" not in name)]
    schema = {"type": "object", "required": required, "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
