"""Admission of OpenAI requests, before any model is resolved.

Requests whose adapter is in no engine's memory wait in a queue of their own, which yields to warm requests.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from fastapi import Request, Response

from mint_common.authority import Caller
from mint_common.client.http import shortened
from mint_common.errors import NotFound
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import Handler
from mint_common.telemetry.tracing import request_id
from services.gateway.core.openai.serving_request import ServingRequest, read_request
from services.gateway.http.edge.bodies import answered
from services.gateway.http.edge.context import EDGE
from services.gateway.http.edge.errors import ANTHROPIC_REQUEST_HEADER
from services.gateway.http.edge.routes import OpenAIRoute
from services.gateway.http.mint.context import CATALOG
from services.gateway.http.openai.context import INFERENCE

MAX_MODEL_CHARACTERS = 1000
"""Maximum length of a model's name; every valid one is shorter, a sampler's path included."""


def asked_of(request: Request) -> ServingRequest:
    """Return the fields of a request's body."""
    return cast(ServingRequest, request.state.asked)


class AdmittedRoute(OpenAIRoute):
    """A route of a router made with ``route_class=AdmittedRoute``: its body names a model.

    Its endpoint takes only the request and the caller, which are passed directly: solving FastAPI's
    dependencies would take a quarter of the relay's time.
    """

    max_body_bytes = 4 << 20
    """Room for a million tokens as text, or several hundred thousand as numbers."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # FastAPI's own
        super().__init__(path, endpoint, **options)
        self.operation = ApiOperation.at(path)

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:  # noqa: ARG002
        """Answer a request once it is admitted."""
        request = await self.admit(request, caller)
        asked = request.state.asked = read_request(self.operation, await request.body())
        if not asked.model:
            asked = request.state.asked = replace(asked, model=await CATALOG.of(request).only_base())
        inference, model = INFERENCE.of(request), asked.model
        if len(model) > MAX_MODEL_CHARACTERS:
            raise NotFound(kind="model", name=shortened(model))
        if CATALOG.of(request).is_warm(caller.tenant_id, model):
            for gate in (inference.cold_admission, EDGE.of(request).body_admission):
                gate.enter_warm()
                answered(request).callback(gate.leave_warm)
            return await self._answer(request, caller)
        async with cancelled_on_disconnect(request):
            await inference.cold_admission.admit(caller.tenant_id)
        return await self._answer(request, caller)

    async def _answer(self, request: Request, caller: Caller) -> Response:
        return cast(Response, await self.endpoint(request=request, caller=caller))


class AnthropicRoute(AdmittedRoute):
    """As `AdmittedRoute`, with errors and the request's id in the shape of Anthropic's API."""

    api = "anthropic"

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request once it is admitted."""
        response = await super().serve(request, caller, carry_out)
        response.headers[ANTHROPIC_REQUEST_HEADER] = request_id()
        return response
