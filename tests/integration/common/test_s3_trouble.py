"""S3 blobs when the way to the server fails: what passes is repeated, what does not is Unavailable."""

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from mint_common.blobs.resuming import ResumingBlobs
from mint_common.blobs.s3 import S3Blobs, open_s3
from mint_common.errors import AlreadyExists, Unavailable

pytestmark = pytest.mark.integration


class Trouble:
    """A proxy of one port that fails the first requests as told, then lets all pass.

    A plan has: 500, 503, drop (before the request), lose (after it, no answer), cut (its answer), alter (the
    last byte of the request), pass. ``heads`` has what came.
    """

    def __init__(self, upstream: str, plan: list[str]) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname or "", parts.port or 0)
        self.plan = plan
        self.seen = 0
        self.heads: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await self._read_request(reader, writer):
                self.seen += 1
                self.heads.append(head.split(b"\r\n\r\n")[0])
                how = self.plan.pop(0) if self.plan else "pass"
                if not await self._answer(how, head, writer):
                    break
        finally:
            writer.close()

    async def _read_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""
        if header(head, b"expect"):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = header(head, b"content-length")
        return head + await reader.readexactly(int(length or 0))

    async def _answer(self, how: str, request: bytes, writer: asyncio.StreamWriter) -> bool:
        if how in {"500", "503"}:
            writer.write(f"HTTP/1.1 {how} Trouble\r\ncontent-length: 0\r\n\r\n".encode())
            return True
        if how == "drop":
            return False
        if how == "alter":
            request = request[:-1] + bytes([request[-1] ^ 1])
        answer = await self._ask(request)
        if how == "lose":
            return False
        writer.write(answer[: len(answer) - 1000] if how == "cut" else answer)
        await writer.drain()
        return how in {"pass", "alter"} and header(answer, b"connection") != b"close"

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 100 " in head.split(b"\r\n")[0]:
            head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        length = header(head, b"content-length")
        if length and not request.startswith(b"HEAD"):
            body = await reader.readexactly(int(length))
        writer.close()
        return head + body


def header(head: bytes, name: bytes) -> bytes:
    for line in head.split(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.strip().lower() == name:
            return value.strip()
    return b""


@asynccontextmanager
async def troubled(s3_server: Any, *plan: str) -> AsyncIterator[tuple[S3Blobs, Trouble]]:
    trouble = Trouble(s3_server.endpoint, list(plan))
    server = await asyncio.start_server(trouble.handle, "127.0.0.1", 0)
    blobs = await open_s3(
        bucket=s3_server.bucket,
        prefix=str(uuid.uuid4()),
        endpoint=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
        region="us-east-1",
    )
    try:
        yield blobs, trouble
    finally:
        await blobs.close()
        server.close()


@pytest.mark.parametrize("plan", [("500",), ("503", "500"), ("drop",), ("lose",), ("drop", "lose", "500")])
async def test_a_write_gets_through(s3_server: Any, plan: tuple[str, ...]) -> None:
    async with troubled(s3_server, *plan) as (blobs, trouble):
        claim = await blobs.put("key", b"x" * 5000)
        assert trouble.seen == len(plan) + 1
        assert await blobs.get(claim) == b"x" * 5000


async def test_a_new_key_whose_answer_was_lost_is_ours(s3_server: Any) -> None:
    async with troubled(s3_server, "lose") as (blobs, _):
        claim = await blobs.put_new("key", b"mine")
        assert await blobs.get(claim) == b"mine"
        with pytest.raises(AlreadyExists):
            await blobs.put_new("key", b"other")


@pytest.mark.parametrize("plan", [("500",), ("cut",), ("drop", "cut", "503")])
async def test_a_read_gets_through(s3_server: Any, plan: tuple[str, ...], tmp_path: Any) -> None:
    data = bytes(range(256)) * 10_000
    async with troubled(s3_server) as (blobs, trouble):
        claim = await blobs.put("key", data)
        trouble.plan[:] = plan
        assert await blobs.get(claim) == data
        trouble.plan[:] = plan
        await blobs.fetch(claim, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert [path.name for path in tmp_path.iterdir()] == ["copy"]


async def test_a_file_is_sent_under_its_checksum_and_hashed_by_nobody_else(
    s3_server: Any, tmp_path: Any
) -> None:
    """botocore would hash the whole file on the event loop to sign it."""
    (tmp_path / "file").write_bytes(b"x" * 5000)
    async with troubled(s3_server) as (blobs, trouble):
        claim = await blobs.put_file("key", tmp_path / "file")
        assert await blobs.get(claim) == b"x" * 5000
        head = trouble.heads[0]
        assert header(head, b"x-amz-content-sha256") == b"UNSIGNED-PAYLOAD"
        assert base64.b64decode(header(head, b"x-amz-checksum-sha256")).hex() == claim.sha256
        assert b"x-amz-checksum-sha256" in header(head, b"authorization").partition(b"SignedHeaders=")[2]


async def test_bytes_that_change_on_their_way_are_not_stored(s3_server: Any) -> None:
    async with troubled(s3_server, "alter") as (blobs, _):
        with pytest.raises(Unavailable, match="400"):
            await blobs.put("key", b"x" * 5000)
        assert [key async for key in blobs.list("")] == []


async def test_trouble_without_end_is_unavailable(s3_server: Any) -> None:
    async with troubled(s3_server, *["500"] * 20) as (blobs, trouble):
        with pytest.raises(Unavailable, match="500"):
            await blobs.put("key", b"x")
        assert trouble.seen == 6


async def test_an_absent_server_is_unavailable() -> None:
    blobs = await open_s3(
        bucket="b", endpoint="http://127.0.0.1:9", access_key="a", secret_key="b", region="us-east-1"
    )
    with pytest.raises(Unavailable):
        await blobs.delete("key")
    await blobs.close()


async def test_a_wrong_secret_waits_for_an_operator(s3_server: Any) -> None:
    blobs = await open_s3(
        bucket=s3_server.bucket,
        endpoint=s3_server.endpoint,
        access_key=s3_server.access_key,
        secret_key="wrong",
        region="us-east-1",
    )
    with pytest.raises(Unavailable, match="403"):
        await blobs.put("key", b"x")
    await blobs.close()


@pytest.mark.parametrize("plan", [("500",), ("cut",), ("pass", "cut", "drop", "503")])
async def test_a_ranged_download_gets_through(s3_server: Any, plan: tuple[str, ...], tmp_path: Any) -> None:
    data = bytes(range(256)) * 10_000
    async with troubled(s3_server) as (blobs, trouble):
        claim = await blobs.put("key", data)
        trouble.plan[:], trouble.seen = plan, 0
        resuming = ResumingBlobs(blobs, partials=tmp_path / "partial", range_bytes=1_000_000)
        await resuming.fetch(claim, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert trouble.seen == 3 + sum(how != "pass" for how in plan)


async def test_a_download_that_an_outage_broke_goes_on(s3_server: Any, tmp_path: Any) -> None:
    data = bytes(range(256)) * 10_000
    async with troubled(s3_server) as (blobs, trouble):
        claim = await blobs.put("key", data)
        trouble.plan[:] = ["pass", "pass", *["503"] * 6]
        resuming = ResumingBlobs(blobs, partials=tmp_path / "partial", range_bytes=1_000_000)
        with pytest.raises(Unavailable):
            await resuming.fetch(claim, tmp_path / "copy")
        trouble.seen = 0
        await resuming.fetch(claim, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == data
        assert trouble.seen == 1
