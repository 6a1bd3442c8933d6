"""An engine that costs nothing: answers what a loader answers, prepared bytes from memory."""

import asyncio
import sys
from dataclasses import replace
from typing import Any

import msgspec
import uvicorn
import uvloop

from mint_common.generation import REVISION_HEADER, EngineLoad
from mint_common.ids import BaseName
from mint_common.runtime.http_protocol import ConnectionBounds, protocol_of
from tests.testing.factories import ENGINE_INFO

BASE = BaseName("tiny")
TOKENS = 200
TOKEN = b'" token'
"""How each token of an answer begins in its JSON."""
_STEP_SECONDS = 0.002
_EVENTS = [
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"tiny",'
    b'"choices":[{"index":0,"delta":{"content":" token %d"},"logprobs":null,"finish_reason":null}]}\n\n'
    % number
    for number in range(TOKENS)  # LiteLLM breaks a stream off that repeats itself
]
_WHOLE = (
    b'{"id":"chatcmpl-0123456789abcdef","object":"chat.completion","created":1,"model":"tiny",'
    b'"choices":[{"index":0,"message":{"role":"assistant","content":" token"},"finish_reason":"length"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
)
_ENGINE_INFO = msgspec.json.encode(replace(ENGINE_INFO, base=BASE))
_LOAD = msgspec.json.encode(
    EngineLoad(
        requests=0,
        loads_waiting=0,
        loads_running=0,
        in_slots=0,
        in_host=0,
        host_bytes=0,
        host_bytes_capacity=1,
    )
)


def serve_stub(port: int) -> None:
    """Answer until killed: a stream one event a token and step, anything else whole."""

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI has no types
        path = scope["path"]
        json, marks = (b"content-type", b"application/json"), [(REVISION_HEADER.encode(), b"base:tiny")]
        body = {"/internal/engine": _ENGINE_INFO, "/internal/load": _LOAD}.get(path, _WHOLE)
        start = {"type": "http.response.start", "status": 200}
        if body is not _WHOLE or b'"stream":true' not in (await receive())["body"].replace(b" ", b""):
            length = (b"content-length", str(len(body)).encode())
            await send({**start, "headers": [*marks, json, length]})
            await send({"type": "http.response.body", "body": body})
            return
        await send({**start, "headers": [*marks, (b"content-type", b"text/event-stream")]})
        for event in _EVENTS:
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(_STEP_SECONDS)
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    serve_bare(app, port)


def serve_bare(app: Any, port: int) -> None:
    """Serve an ASGI application with the HTTP protocol of every service, until killed."""
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=protocol_of(ConnectionBounds()),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=60,
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    serve_stub(int(sys.argv[1]))
