"""The routes of files: recorded like MinT's own, with errors in OpenAI's shape."""

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from mint_common.api_errors import error_status
from mint_common.authority import Caller
from mint_common.errors import MintError
from mint_common.runtime.edge_errors import retry_headers
from mint_common.runtime.edge_routes import Handler
from services.gateway.core.files.refusals import file_error_body
from services.gateway.http.edge.recording import RecordedRoute
from services.gateway.http.edge.refusal_log import note_refusal


class FilesRoute(RecordedRoute):
    """A route of files or uploads."""

    api = "openai"

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request; an error names a file's parameters, and its lines."""
        try:
            return await super().serve(request, caller, carry_out)
        except MintError as error:
            note_refusal(request.scope, error)
            return JSONResponse(file_error_body(error), error_status(error), headers=retry_headers(error))
