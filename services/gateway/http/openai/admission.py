"""Admission of OpenAI requests, before anything is checked or resolved.

Requests whose adapter is in no engine's memory wait in a queue of their own, which yields to warm requests.
"""

from typing import cast

import msgspec
from fastapi import Request, Response

from mint_common.authority import Caller
from mint_common.client.http import shortened
from mint_common.errors import NotFound
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import Handler
from services.gateway.http.edge.bodies import answered
from services.gateway.http.edge.context import gateway_of
from services.gateway.http.edge.routes import OpenAIRoute

MOST_MODEL = 1000
"""Characters of a model's name: more than any has, a sampler's path included."""


class AdmittedRoute(OpenAIRoute):
    """A route of a router made with ``route_class=AdmittedRoute``: its body names a model.

    Its endpoint takes the request and the caller, and nothing else: they are handed to it, as solving
    FastAPI's dependencies would take a quarter of what the whole relay takes.
    """

    max_body_bytes = 4 << 20
    """A context of a million tokens as text, or of several hundred thousand as numbers."""

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:  # noqa: ARG002
        """Answer a request once it is admitted."""
        request = await self.admit(request, caller)
        gateway, model = gateway_of(request), _model_of(await request.body())
        if len(model) > MOST_MODEL:
            raise NotFound(kind="model", name=shortened(model))
        if gateway.is_warm(caller.tenant_id, model):
            for pace in (gateway.cold_admission, gateway.body_admission):
                pace.enter_warm()
                answered(request).callback(pace.leave_warm)
            return await self._answer(request, caller)
        async with cancelled_on_disconnect(request):
            await gateway.cold_admission.admit(caller.tenant_id)
        return await self._answer(request, caller)

    async def _answer(self, request: Request, caller: Caller) -> Response:
        return cast(Response, await self.endpoint(request=request, caller=caller))


class AnthropicRoute(AdmittedRoute):
    """As `AdmittedRoute`, with errors in the shape of Anthropic's API."""

    api = "anthropic"


def _model_of(body: bytes) -> str:
    """Return the model's name, empty if the body cannot be read: its errors are raised where it is parsed."""
    try:
        return _BODY.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class _ModelField(msgspec.Struct):
    model: str = ""


_BODY = msgspec.json.Decoder(_ModelField)
