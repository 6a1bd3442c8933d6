"""The limit of a step through the SDK: a gateway whose answers come at once.

``python -m benches.tinker_replay PORT GATEWAY_URL`` forwards everything, and after some steps it gives the
recorded answers of the last one again.
"""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx

from benches.machine import ROOT
from benches.relay_stub import serve_bare
from services.standalone.adapters.launch import free_port

FORWARDED_STEPS = 2
_STEP_PATHS = ("forward_backward", "optim_step", "retrieve_future")
_DROPPED = (b"content-encoding", b"content-length", b"transfer-encoding", b"connection", b"date")


@contextlib.contextmanager
def open_replay(gateway_url: str) -> Iterator[str]:
    """Run it as a process and return its URL; the SDK connects again until it listens."""
    port = free_port()
    command = [sys.executable, "-m", "benches.tinker_replay", str(port), gateway_url]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def serve_replay(port: int, gateway_url: str) -> None:
    """Answer until killed."""
    answers: dict[tuple[str, bytes], httpx.Response] = {}
    upstream = httpx.AsyncClient(base_url=gateway_url, timeout=None)  # a long poll
    steps = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI has no types
        nonlocal steps
        body = await _body(receive)
        operation = scope["path"].rpartition("/")[2]
        steps += operation == "forward_backward"
        key = (operation, body if operation == "retrieve_future" else b"")
        answer = answers.get(key) if steps > FORWARDED_STEPS else None
        if answer is None:
            path = f"{scope['path']}?{scope['query_string'].decode()}"
            headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
            answer = await upstream.request(scope["method"], path, content=body, headers=headers)
            if operation in _STEP_PATHS:
                answers[key] = answer
        headers = [(name, value) for name, value in answer.headers.raw if name.lower() not in _DROPPED]
        headers.append((b"content-length", str(len(answer.content)).encode()))
        await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})

    serve_bare(app, port)


async def _body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


if __name__ == "__main__":
    serve_replay(int(sys.argv[1]), sys.argv[2])
