"""Connections that send slowly, too much or nothing: each ends by itself, and others never wait for it."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import cast

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from security.raw_http import Client, head, serving

from mint_common.client.relayed import Relayed
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.edge import create_http
from mint_common.runtime.http_protocol import ConnectionBounds
from mint_common.runtime.slow_clients import MinRate, paced
from services.gateway.http.openai import relay
from services.gateway.http.openai.relay import READER_RATE, RelayedStream

BOUNDS = ConnectionBounds(
    head_seconds=0.2, head_bytes=2000, head_lines=20, linger_pause_seconds=0.2, linger_read_seconds=0.01
)
SLOW = MinRate(bytes_per_second=1000, grace_seconds=0.2, stall_seconds=0.2)


def make_http() -> FastAPI:
    """Return an edge that leaves bodies unread, as the gateway's does."""
    http = create_http(
        title="test", service="patient", internal_token=None, ready=lambda: True, max_body_bytes=None
    )

    @http.post("/unread")
    async def leave_unread() -> str:
        return "done"

    @http.post("/stream")
    async def stream(request: Request) -> int:
        return len(await request.body())

    @http.post("/paced")
    async def read(request: Request) -> int:
        receive, size, more = paced(request.receive, SLOW), 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
        return size

    return http


@pytest.mark.parametrize("sent", [b"P", b"POST / HTTP/1.1\r\nhost: x\r\n", b"POST / HTTP/1.1\r\nx-long: a"])
async def test_half_a_head_is_refused_in_time(sent: bytes) -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(sent)
        assert await client.status() == b"400"
        assert b"0.2 s" in await client.read_all()


@pytest.mark.parametrize(("first", "drip"), [(b"POST / HTTP/1.1\r\n", b"x-a: b\r\n"), (b"\r\n", b"\r\n")])
async def test_dripping_gets_no_more_time(first: bytes, drip: bytes) -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/unread", 0))
        assert await client.status() == b"200"
        client.writer.write(first)
        ended = asyncio.create_task(client.read_all())
        for _ in range(6):
            await asyncio.sleep(0.1)
            client.writer.write(drip)
        assert ended.done()


async def test_a_head_is_bounded_in_bytes_and_lines() -> None:
    async with serving(make_http(), replace(BOUNDS, head_seconds=5)) as server:
        client = await server.connect(b"POST / HTTP/1.1\r\nx: ")
        for size in (1500, 600):
            await asyncio.sleep(0.05)
            client.writer.write(b"a" * size)
        assert await client.status() == b"431"
        client = await server.connect(b"POST / HTTP/1.1\r\n" + b"a: b\r\n" * 30)
        assert await client.status() == b"400"
        client = await server.connect(b"POST / HTTP/1.1\r\nx-request-id: mine\r\n" + b"a: b\r\n" * 30)
        assert await client.status() == b"400"
        assert (await client.headers())["x-request-id"] == "mine"
        client = await server.connect(b"nonsense\r\n\r\n")
        assert await client.status() == b"400"
        assert (await client.headers())["x-request-id"].startswith("req_")


async def test_an_answer_that_needs_no_body_comes_at_once_and_its_connection_ends_soon() -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/unread", 1 << 20) + b"x" * 1000)
        assert await client.status() == b"200"
        assert b'"done"' in await client.read_all()


async def test_who_sends_all_of_an_unwanted_body_hears_the_answer_and_goes_on() -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/unread", 4 << 20))
        for _ in range(64):
            client.writer.write(b"x" * (64 << 10))
            await client.writer.drain()
        client.writer.write(head("/unread", 0))
        async with asyncio.timeout(30):
            for _ in range(2):
                await client.reader.readuntil(b'"done"')


@pytest.mark.parametrize("drips", [0, 10])
async def test_a_body_that_stalls_or_drips_is_refused_for_good_and_its_connection_ends(drips: int) -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/paced", 1 << 20) + b"x" * 100)
        answer = asyncio.create_task(client.read_all())
        for _ in range(drips):
            client.writer.write(b"x")
            await asyncio.sleep(0.1)
        text = await answer
    assert text.startswith(b"HTTP/1.1 400 ")
    assert b"body_too_slow" in text
    assert b'"retryable":false' in text


async def test_a_slow_but_steady_body_is_taken() -> None:
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/paced", 1000))
        for _ in range(10):
            client.writer.write(b"x" * 100)
            await asyncio.sleep(0.05)
        assert await client.status() == b"200"


async def test_too_many_connections_displace_those_without_a_request_the_oldest_first() -> None:
    async with serving(make_http(), replace(BOUNDS, connections=3, head_seconds=5)) as server:
        at_work = await server.connect(head("/stream", 100) + b"x")
        await asyncio.sleep(0.05)
        idle = [await server.connect() for _ in range(4)]
        assert await idle[0].read_all() == b""
        assert await idle[1].read_all() == b""
        idle[3].writer.write(head("/unread", 0))
        assert await idle[3].status() == b"200"
        at_work.writer.write(b"x" * 99)
        assert await at_work.status() == b"200"


async def test_a_client_that_leaves_in_its_body_is_no_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(make_http(), BOUNDS) as server:
        for path in ("/stream", "/paced"):
            client = await server.connect(head(path, 1000) + b"x")
            await asyncio.sleep(0.05)
            client.writer.transport.abort()
        await asyncio.sleep(0.1)
    assert not caplog.records


async def send_for(client: Client, *, seconds: float) -> None:
    ends_at = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends_at:
        client.writer.write(b"x" * (16 << 10))
        await client.writer.drain()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("behind", [b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n", b"x" * 40])
async def test_a_request_hears_that_its_client_left_whatever_came_behind_it(behind: bytes) -> None:
    http, heard = make_http(), asyncio.Event()

    @http.post("/wait")
    async def wait(request: Request) -> None:
        await request.body()
        assert (await request.receive())["type"] == "http.disconnect"
        heard.set()

    async with serving(http, BOUNDS) as server:
        client = await server.connect(head("/wait", 0))
        await asyncio.sleep(0.05)
        client.writer.write(behind)
        await asyncio.sleep(0.05)
        client.writer.close()
        await asyncio.wait_for(heard.wait(), 30)


async def test_what_comes_behind_a_request_is_answered_in_order_and_bounded() -> None:
    http = make_http()

    @http.post("/slow")
    async def slow(seconds: float) -> None:
        await asyncio.sleep(seconds)

    async with serving(http, BOUNDS) as server:
        client = await server.connect(head("/slow?seconds=0.1", 0))
        await asyncio.sleep(0.05)
        client.writer.write(head("/stream", 3) + b"abc" + head("/unread", 0))
        async with asyncio.timeout(30):
            for answer in (b"null", b"3", b'"done"'):
                await client.reader.readuntil(b"\r\n\r\n" + answer)

        client = await server.connect(head("/slow?seconds=3", 0))
        await asyncio.sleep(0.05)
        client.writer.write(head("/stream", 1 << 20))
        with pytest.raises(ConnectionError):
            await send_for(client, seconds=2)


async def test_who_reads_nothing_of_an_answer_loses_the_connection() -> None:
    http, ended = make_http(), asyncio.Event()

    @http.get("/endless")
    async def endless() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    await asyncio.sleep(0)
                    yield b"x" * (1 << 20)
            finally:
                ended.set()

        return StreamingResponse(parts())

    async with serving(http, replace(BOUNDS, unread_seconds=0.5)) as server:
        deaf = socket.create_connection(("127.0.0.1", server.port))
        server.stack.callback(deaf.close)
        deaf.sendall(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        await asyncio.wait_for(ended.wait(), 10)


@given(
    parts=st.lists(st.tuples(st.integers(0, 1 << 20), st.floats(0, 12)), max_size=60),
    rate=st.floats(1, 1 << 20),
)
def test_who_keeps_the_rate_may_pause_and_nobody_holds_on(
    parts: list[tuple[int, float]], rate: float
) -> None:
    least = MinRate(bytes_per_second=rate, grace_seconds=10, stall_seconds=9)
    received, waited = 0, 0.0
    for size, seconds in parts:
        patience = least.timeout_seconds(received_bytes=received, waited_seconds=waited)
        assert patience <= 9
        if waited <= received / rate:
            assert patience == 9
        if seconds >= patience:
            return
        received, waited = received + size, waited + seconds
        assert waited <= 10 + received / rate


class Relaying:
    """An engine's answer without end, as `Relayed` gives it; ``is_closed`` once its request is given up."""

    def __init__(self) -> None:
        self.is_closed = False

    async def parts(self) -> AsyncGenerator[bytes, None]:
        while True:
            yield b"x" * 65536

    def close(self) -> None:
        self.is_closed = True


async def test_a_stream_whose_reader_is_too_slow_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "READER_RATE", SLOW)
    assert READER_RATE.stall_seconds < ConnectionBounds().unread_seconds
    answer = Relaying()
    http = create_http(title="test", service="relay", internal_token=None, ready=lambda: True)

    @http.post("/stream")
    async def stream() -> Response:
        return RelayedStream(cast(Relayed, answer), operation=ApiOperation.CHAT, headers={})

    async with serving(http) as server:
        client = await server.connect(head("/stream", 0))
        async with asyncio.timeout(30):
            while not answer.is_closed:  # nothing is read
                await asyncio.sleep(0.05)
        rest = await client.read_all()
    assert not rest.endswith(b"0\r\n\r\n"), "it does not look whole"
    assert not [each for each in caplog.records if each.exc_info], "no traceback for each slow reader"


async def test_an_answer_may_take_many_times_longer_than_any_bound_of_a_connection() -> None:
    http = create_http(title="test", service="long", internal_token=None, ready=lambda: True)

    @http.post("/long")
    async def answer() -> str:
        await asyncio.sleep(1.5)
        return "done"

    async with serving(http, replace(BOUNDS, unread_seconds=0.2)) as server:
        client = await server.connect(head("/long", 0))
        assert await client.status() == b"200"
