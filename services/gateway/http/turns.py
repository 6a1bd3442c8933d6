"""Who of the OpenAI API waits for a turn: a request whose adapter is in no engine's memory."""

from collections.abc import AsyncIterator

from fastapi import Request

from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.gateway.http.context import CallerDep, GatewayDep


async def take_turn(request: Request, caller: CallerDep, gateway: GatewayDep) -> AsyncIterator[None]:
    """Let a request of the OpenAI API through in its turn; before the check of its body, which costs."""
    if not gateway.is_warm(caller.tenant_id, await _model_of(request)):
        async with cancelled_on_disconnect(request):
            await gateway.pace.turn(caller.tenant_id)
        yield
        return
    gateway.pace.enter_warm()
    try:
        yield
    finally:
        gateway.pace.leave_warm()


async def _model_of(request: Request) -> str:
    """Return the model's name, or nothing; what is wrong with a body is said where it is checked."""
    try:
        body = await request.json()  # read and parsed by now
    except (ValueError, RecursionError):
        return ""
    model = body.get("model") if isinstance(body, dict) else None
    return model if isinstance(model, str) else ""
