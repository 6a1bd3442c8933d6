"""A server on a loopback port as services run it, and raw connections to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from mint_common.runtime.http_protocol import ConnectionBounds, protocol_of

BOUNDS = ConnectionBounds()


@dataclass
class Client:
    """One raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_all(self, seconds: float = 30) -> bytes:
        async with asyncio.timeout(seconds):
            return await self.reader.read()

    async def status(self, seconds: float = 30) -> bytes:
        async with asyncio.timeout(seconds):
            return (await self.reader.readline()).split()[1]

    async def headers(self, seconds: float = 30) -> dict[str, str]:
        """Return what follows the status, up to the answer's body."""
        async with asyncio.timeout(seconds):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if line)


@dataclass
class Server:
    """Where it listens; its connections are closed when the test has ended."""

    port: int
    stack: AsyncExitStack

    async def connect(self, text: bytes = b"") -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.stack.callback(writer.close)
        writer.write(text)
        return Client(reader, writer)


@asynccontextmanager
async def serving(http: FastAPI, bounds: ConnectionBounds = BOUNDS) -> AsyncIterator[Server]:
    """Serve an application."""
    config = uvicorn.Config(
        http, port=0, http=protocol_of(bounds), ws="none", lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        async with AsyncExitStack() as stack:
            yield Server(server.servers[0].sockets[0].getsockname()[1], stack)
    finally:
        server.should_exit = server.force_exit = True
        await task


def head(path: str, length: int, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()
