"""Admission of OpenAI requests: begun in turn, tenants alternating, before anything is checked or resolved.

Requests whose adapter is in no engine's memory wait in a queue of their own, which yields to warm requests.
"""

import msgspec
from fastapi import Request, Response

from mint_common.authority import Caller
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge_routes import Handler
from services.gateway.core.openai.large_body import check_large_body
from services.gateway.http.edge.bodies import LARGE_JSON_BYTES, answered
from services.gateway.http.edge.context import gateway_of
from services.gateway.http.edge.routes import OpenAIRoute

LARGEST_CONTEXT = 1 << 20
"""In tokens: the bound of a prompt while no engine is known."""


class AdmittedRoute(OpenAIRoute):
    """A route of a router made with ``route_class=AdmittedRoute``: its body names a model."""

    max_body_bytes = 4 << 20
    """A context of a million tokens as text, or of several hundred thousand as numbers."""

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request once it is admitted."""
        request = await self.admit(request, caller)
        gateway, body = gateway_of(request), await request.body()
        if len(body) > LARGE_JSON_BYTES:
            check_large_body(body, max_context=gateway.engines.largest_context() or LARGEST_CONTEXT)
        if gateway.is_warm(caller.tenant_id, _model_of(body)):
            for pace in (gateway.cold_admission, gateway.body_admission):
                pace.enter_warm()
                answered(request).callback(pace.leave_warm)
            await gateway.admission.admit(caller.tenant_id)
            return await carry_out(request)
        async with cancelled_on_disconnect(request):
            await gateway.cold_admission.admit(caller.tenant_id)
        return await carry_out(request)


def _model_of(body: bytes) -> str:
    """Return the model's name, empty if the body cannot be read: its errors are raised where it is parsed."""
    try:
        return _BODY.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class _ModelField(msgspec.Struct):
    model: str = ""


_BODY = msgspec.json.Decoder(_ModelField)
