"""Routes of fine-tuning: recorded like MinT's own, with errors in OpenAI's shape."""

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from mint_common.authority import Caller
from mint_common.ids import new_id
from mint_common.job_errors import JobRefused
from mint_common.runtime.edge_errors import invalid_field
from mint_common.runtime.edge_routes import Handler
from services.gateway.core.idempotency import GIVEN_PREFIX, KeyedRequest, keyed_request
from services.gateway.http.edge.context import EDGE
from services.gateway.http.edge.refusal_log import note_refusal
from services.gateway.http.files.routes import FilesRoute, file_error_body

RETRY_HEADER = "x-stainless-retry-count"
"""Header in which OpenAI's clients count their retries of a request. They send no Idempotency-Key."""
REPEATED_SECONDS = 3600.0
"""Time after a request in which its repetitions may arrive: longer than three times the client's timeout of
600 s."""


class FineTuningRoute(FilesRoute):
    """A route of fine-tuning. An error's ``param`` is a path in the body.

    A retry of OpenAI's client to create a job is the same request: the first request gets a key, as if the
    client had sent an Idempotency-Key, and a repeat with the same API key and content takes that key.
    """

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request; errors in a body name the whole path."""
        try:
            return await super().serve(request, caller, carry_out)
        except RequestValidationError as error:
            refused = invalid_field(error)
            if error.errors()[0]["type"] == "extra_forbidden":
                problem = f"Unknown field {refused.field!r}."
                refused = JobRefused(reason="unknown_field", field=str(refused.field), problem=problem)
            note_refusal(request.scope, refused)
            return JSONResponse(file_error_body(refused), 400)

    async def _keyed(self, request: Request, caller: Caller) -> KeyedRequest | None:
        keyed = await super()._keyed(request, caller)
        count = request.headers.get(RETRY_HEADER)
        if keyed is not None or count is None or not self.created:
            return keyed
        prefix = f"{GIVEN_PREFIX}{caller.key_id}:"
        content = await request.body()
        fresh = keyed_request(
            caller.tenant_id,
            prefix + new_id("req"),
            method=request.method,
            target=request.scope["path"],
            body=content,
        )
        if count == "0":
            return fresh
        edge = EDGE.of(request)
        since = edge.clock.now() - REPEATED_SECONDS
        first = await edge.requests.find(caller.tenant_id, prefix=prefix, sha256=fresh.sha256, since=since)
        if first is None:
            return fresh
        return KeyedRequest(tenant_id=caller.tenant_id, key=first, sha256=fresh.sha256)
