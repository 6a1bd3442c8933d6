"""Bodies of the Tinker API: read whole, bounded by themselves and per key, decompressed, decoded."""

from collections.abc import AsyncIterator
from typing import Annotated, TypeVar

import msgspec
import zstandard
from fastapi import Depends, Request, Response
from starlette.requests import ClientDisconnect

from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.ids import new_id
from mint_common.runtime.disconnect import ClientGone
from services.gateway.core.tinker.bodies import MAX_BODY_BYTES
from services.gateway.core.tinker.futures import JSON
from services.gateway.core.tinker.passes import read_json
from services.gateway.core.tinker.repetition import request_key
from services.gateway.http.bodies import StreamDep
from services.gateway.http.context import CallerDep, GatewayDep

_WINDOW_BYTES = 8 << 20
"""What a decompressor may allocate, whatever a frame says that it needs."""

T = TypeVar("T", bound=msgspec.Struct)


async def _body(
    request: Request, stream: StreamDep, caller: CallerDep, gateway: GatewayDep
) -> AsyncIterator[bytes]:
    announced = request.headers.get("content-length", "")
    size_bytes = int(announced) if announced.isdecimal() else MAX_BODY_BYTES
    if size_bytes > MAX_BODY_BYTES:
        raise BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    gateway.tinker.bodies.take(caller.key_id, size_bytes)
    try:
        yield _decompress(await _read(stream), request.headers.get("content-encoding", "identity"))
    finally:
        gateway.tinker.bodies.give_back(caller.key_id, size_bytes)


BodyDep = Annotated[bytes, Depends(_body)]
"""The body of a request, counted as its key's until the answer has been sent."""


async def _request_key(request: Request) -> str:
    return request_key(request.headers, fresh=new_id("req"))


RequestKeyDep = Annotated[str, Depends(_request_key)]
"""What all repetitions of a request have in common."""


def read(body: bytes, shape: type[T]) -> T:
    """Return a JSON body. Fields that are not known are ignored. Raises InvalidField."""
    found: T = read_json(body, shape)
    return found


def answer(content: object) -> Response:
    """Return a JSON answer; what is None in a struct or mapping goes out as null."""
    return Response(msgspec.json.encode(content), media_type=JSON)


def nothing() -> Response:
    """Return the answer of a route that has nothing to say."""
    return Response(status_code=204)


async def _read(stream: AsyncIterator[bytes]) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    try:
        async for part in stream:
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > MAX_BODY_BYTES:
                raise BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    except ClientDisconnect as error:
        raise ClientGone from error
    return b"".join(parts)


def _decompress(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    if encoding != "zstd":
        raise InvalidField(field="Content-Encoding", problem=f"must be zstd, got {encoding[:50]!r}")
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES)
    try:
        # One frame, and no more of it than a byte too many.
        whole = decompressor.stream_reader(body).read(MAX_BODY_BYTES + 1)
    except zstandard.ZstdError as error:
        raise InvalidField(field="body", problem=f"is no zstd frame: {error}") from error
    if len(whole) > MAX_BODY_BYTES:
        raise BodyTooLarge(limit_bytes=MAX_BODY_BYTES)
    return whole
