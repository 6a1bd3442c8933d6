"""Bodies in chunks: tiny ones end after a count, framing is bounded, and trailers are no headers."""

import asyncio
import logging
from dataclasses import replace

import pytest
from fastapi import FastAPI, Request

from mint_common.runtime.edge import create_http
from mint_common.runtime.http_protocol import ConnectionBounds
from tests.security.gateway_rig import make_rig
from tests.security.raw_http import Client, serving

PARTS, MORE_PARTS = 100, 1000
BOUNDS = ConnectionBounds(
    parts=((PARTS, 16), (MORE_PARTS, 64)), head_bytes=4096, head_lines=20, linger_pause_seconds=0.2
)
LINE = b"23\r\n" + b'{"prompt": "123+2", "answer": "125"}'[:34] + b"\n\r\n"
TINY = b"1\r\na\r\n"


def head(path: str, *lines: str) -> bytes:
    """Return the head of a chunked request."""
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "host: x", "transfer-encoding: chunked", *lines, "", ""]
    ).encode()


def make_http() -> FastAPI:
    """Return an edge with a route that reads its body, and one that leaves it unread."""
    http = create_http(
        title="t", service="chunked", internal_token=None, ready=lambda: True, max_body_bytes=None
    )

    @http.post("/read")
    async def read(request: Request) -> dict[str, object]:
        size = len(await request.body())
        return {"size": size, "key": request.headers.get("authorization")}

    @http.post("/unread")
    async def leave_unread() -> str:
        return "done"

    return http


async def flood(client: Client, part: bytes, *, seconds: float = 10) -> bytes:
    """Send a part over and over until the server has closed the connection; return what it said."""
    ended = asyncio.create_task(client.read_all(seconds))
    while not ended.done():
        try:
            client.writer.write(100 * part)
            await client.writer.drain()
        except ConnectionError:
            break
        await asyncio.sleep(0.001)
    try:
        return await ended
    except ConnectionError:
        return b""


async def test_a_body_in_tiny_chunks_is_refused_after_a_count():
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/read"))
        client.writer.write(TINY * (PARTS + 1))
        assert await client.status() == b"400"
        said = await client.read_all()
    assert b"connection: close" in said
    assert said.endswith(
        b"A body in more than 100 parts needs 16 bytes in each on average: send larger ones."
    )


async def test_short_lines_that_are_sent_one_by_one_are_taken_up_to_a_larger_count():
    """A client that streamed a JSONL file was refused after 1,000 lines, without a reason."""
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/read"))
        client.writer.write(LINE * MORE_PARTS + b"0\r\n\r\n")
        assert await client.status() == b"200"
        assert b'"size":%d' % (35 * MORE_PARTS) in await client.reader.readuntil(b"}")
        client = await server.connect(head("/read"))
        client.writer.write(LINE * (MORE_PARTS + 1))
        assert await client.status() == b"400"
        assert b"more than 1000 parts needs 64 bytes" in await client.read_all()


def test_tiny_chunks_end_after_1000_and_short_lines_after_20000():
    assert ConnectionBounds().parts == ((1000, 16), (20_000, 64))


async def test_tiny_chunks_behind_an_answer_close_its_connection_without_a_second_one():
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/unread"))
        said = await flood(client, TINY)
    assert said.count(b"HTTP/1.1") <= 1


@pytest.mark.parametrize("size", [100, 5000])
async def test_a_body_in_many_chunks_of_some_size_is_taken(size):
    chunk = b"%x\r\n%b\r\n" % (size, b"x" * size)
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/read"))
        client.writer.write(20 * PARTS * chunk + b"0\r\n\r\n")
        assert await client.status() == b"200"
        assert b'"size":%d' % (20 * PARTS * size) in await client.reader.readuntil(b"}")


@pytest.mark.parametrize(
    ("begun", "part"),
    [
        (b"1;a", b"=xyz"),
        (b"", b"1;" + b"e" * 300 + b"\r\na\r\n"),
        (b"1\r\na\r\n0\r\nx: a", b"aaaa"),
    ],
    ids=["an endless extension", "many extensions", "an endless trailer"],
)
async def test_more_framing_than_content_is_refused(begun, part):
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/read") + begun)
        await asyncio.sleep(0.05)  # what comes with the head counts as head
        said = await flood(client, part)
    assert not said or said.startswith(b"HTTP/1.1 400")


async def test_a_trailer_is_no_header():
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(head("/read"))
        await asyncio.sleep(0.05)
        trailer = b"authorization: Bearer KEY\r\n\r\n"
        client.writer.write(b"1\r\na\r\n0\r\n" + trailer + head("/unread") + b"0\r\n" + trailer)
        said = await client.reader.readuntil(b"}")
        assert b'"size":1,"key":null' in said
        assert await client.reader.readuntil(b'"done"')


async def test_a_key_in_a_trailer_is_no_key():
    rig = make_rig()
    async with serving(rig.http, BOUNDS) as server:
        client = await server.connect(
            head("/mint/v1/policies") + b"2\r\n{}\r\n0\r\nauthorization: Bearer all\r\n\r\n"
        )
        assert await client.status() == b"401"
    assert not rig.registry.verified


async def test_malformed_requests_and_other_protocols_leave_no_line_in_the_log(caplog):
    caplog.set_level(logging.INFO)
    async with serving(make_http(), BOUNDS) as server:
        client = await server.connect(b"NO HTTP\r\n\r\n")
        assert await client.status() == b"400"
        client = await server.connect(
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        )
        assert await client.status() == b"200"
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


async def test_others_are_answered_while_tiny_chunks_flood_without_a_key():
    """Every connection is closed after a bounded number of chunks, so that what they cost is bounded."""
    async with serving(make_rig().http) as server:
        clients = [await server.connect(head("/v1/completions")) for _ in range(16)]
        flooding = [asyncio.create_task(flood(each, TINY)) for each in clients]
        answered = 0
        while not all(each.done() for each in flooding):
            client = await server.connect(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await client.status() == b"200"
            answered += 1
        assert answered
        await asyncio.gather(*flooding)  # raises TimeoutError where one was not closed


async def test_an_unneeded_body_is_read_no_faster_than_its_pace():
    async with serving(make_http(), replace(BOUNDS, linger_pause_seconds=5, linger_read_seconds=5)) as server:
        client = await server.connect(head("/unread"))
        assert await client.status() == b"200"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(client, b"10000\r\n" + b"x" * 65536 + b"\r\n"), 1)
