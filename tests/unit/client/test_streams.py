"""A stream that is handed on may be refused before its last byte, or before its first."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import uvicorn
from fastapi import APIRouter, Request
from http_servers import make_server

from mint_common.client.http import InternalHttp
from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_body import announced_bytes
from mint_common.runtime.edge_routes import BodyRoute, StreamDep, include_routes
from mint_common.runtime.http_protocol import ConnectionBounds, protocol_of

LIMIT_BYTES, TAKEN_BYTES = 1 << 30, 70_000
router = APIRouter(route_class=BodyRoute)


@router.post("/internal/stream")
async def take(request: Request, stream: StreamDep) -> None:
    assert request.headers["connection"] == "keep-alive", "a close resets what is not read"
    announced_bytes(request.headers, limit=LIMIT_BYTES)
    taken_bytes = 0
    async for chunk in stream:
        taken_bytes += len(chunk)
        if taken_bytes > TAKEN_BYTES:
            raise InvalidField(field="body", problem="is not what it should be")


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    """A service with the limits of services on its connections."""
    http = create_http(
        title="a service", service="rollout", internal_token=None, ready=lambda: True, max_body_bytes=None
    )
    include_routes(http.router, router)
    server = make_server(http)
    server.config.http = protocol_of(ConnectionBounds())
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await serving


def address_of(server: uvicorn.Server) -> str:
    host, port = server.servers[0].sockets[0].getsockname()
    return f"http://{host}:{port}"


async def test_what_is_refused_in_the_middle_gets_its_answer(server: uvicorn.Server) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(400):
            yield bytes(16 << 10)

    async with InternalHttp(address_of(server), token="t") as client:
        for _ in range(40):
            with pytest.raises(InvalidField):
                await client.forward("POST", "/internal/stream", body=chunks())


async def test_what_is_refused_by_its_length_need_not_begin(server: uvicorn.Server) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    headers = {"content-length": str(1 << 40)}
    async with InternalHttp(address_of(server), token="t") as client, asyncio.timeout(10):
        with pytest.raises(BodyTooLarge):
            await client.forward("POST", "/internal/stream", body=never(), headers=headers)
