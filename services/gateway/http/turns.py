"""Who of the OpenAI API waits for a turn: a request whose adapter is in no engine's memory.

It waits before anything else is done for it, tracing and checks included: all of that is what a burst of cold
requests would hold warm ones up with. Who it is from and what it asks for is looked up, not checked.
"""

from collections.abc import Sequence
from typing import cast

import msgspec
from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mint_common.errors import MintError, Unauthorized
from mint_common.ids import TenantId
from mint_common.runtime.disconnect import ClientGone, cancelled_on_disconnect
from services.gateway.http.context import Gateway, key_in
from services.gateway.http.errors import openai_error_response

PATHS = frozenset({"/v1/completions", "/v1/chat/completions"})
LARGEST_BYTES = 1 << 20
"""A request that is larger, or does not say how large it is, passes: its body is read by whom it is for."""

_NOBODY = TenantId("")


class Turns:
    """Wraps the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, in its turn."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > LARGEST_BYTES:
            await self._app(scope, receive, send)
            return
        gateway = cast(Gateway, scope["app"].state.gateway)
        messages = await _read(receive)
        tenant_id = _tenant_of(headers, gateway)
        if gateway.is_warm(tenant_id, _model_of(messages)):
            gateway.pace.enter_warm()
            try:
                await self._app(scope, _replay(messages, receive), send)
            finally:
                gateway.pace.leave_warm()
            return
        try:
            async with cancelled_on_disconnect(Request(scope, receive)):
                await gateway.pace.turn(tenant_id)
        except ClientGone:
            return
        except MintError as error:
            await openai_error_response(error)(scope, receive, send)
            return
        await self._app(scope, _replay(messages, receive), send)


async def _read(receive: Receive) -> Sequence[Message]:
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages


def _replay(messages: Sequence[Message], receive: Receive) -> Receive:
    left = iter(messages)

    async def replay() -> Message:
        return next(left, None) or await receive()

    return replay


def _tenant_of(headers: Headers, gateway: Gateway) -> TenantId:
    """Return whose key it was when it was verified last; those of keys that never were share one line."""
    try:
        key = key_in(headers)
    except Unauthorized:
        return _NOBODY
    return gateway.keys.last_tenant(key) or _NOBODY


def _model_of(messages: Sequence[Message]) -> str:
    """Return the model's name, or nothing; what is wrong with a body is said where it is checked."""
    try:
        return _BODY.decode(b"".join(message.get("body", b"") for message in messages)).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class _Body(msgspec.Struct):
    model: str = ""


_BODY = msgspec.json.Decoder(_Body)
