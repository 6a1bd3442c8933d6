"""Bodies of the Tinker API: read whole within limits, decompressed, decoded."""

from typing import Annotated

import msgspec
import zstandard
from fastapi import Depends, Request, Response

from mint_common.authority import Caller
from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.ids import new_id
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.core.idempotency import sent_key
from services.gateway.core.tinker.futures import JSON, PROTOBUF
from services.gateway.http.edge.bodies import LARGE_JSON_BYTES, HeldBytes, hold_body, take_turn
from services.gateway.http.edge.context import CallerDep

MAX_BODY_BYTES = 1 << 20
"""Maximum bytes of one body, before and after decompression."""
MAX_DATA_BYTES = 16 << 20
"""Maximum bytes of a body with data to train on or to sample from. Clients split a batch into parts of 5
MB."""
_WINDOW_BYTES = 8 << 20
"""Maximum memory of a decompressor, whatever a frame declares."""


async def _read(request: Request, caller: Caller, *, limit: int) -> bytes:
    body, held = await hold_body(request, caller, limit=limit)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding == "zstd":
        return await _decompressed(request, caller, body, held, limit=limit)
    if encoding != "identity":
        raise InvalidField(field="Content-Encoding", problem=f"must be zstd, got {encoding[:50]!r}")
    if PROTOBUF not in request.headers.get("content-type", ""):
        await take_turn(request, caller, size_bytes=len(body))
    return body


async def _decompressed(
    request: Request, caller: Caller, body: bytes, held: HeldBytes, *, limit: int
) -> bytes:
    """Return one frame's content. A large frame waits for its turn before most of it is expanded."""
    # One frame, up to one byte beyond the limit.
    frame = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(body)
    try:
        content = frame.read(LARGE_JSON_BYTES + 1)
        held.add(len(content))
        if len(content) > LARGE_JSON_BYTES:
            await take_turn(request, caller, size_bytes=len(content))
            rest = frame.read(limit + 1 - len(content))
            held.add(len(rest))
            content += rest
    except zstandard.ZstdError as error:
        raise InvalidField(field="body", problem=f"is not a zstd frame: {error}") from error
    if len(content) > limit:
        raise BodyTooLarge(limit_bytes=limit)
    return content


async def _body(request: Request, _stream: StreamDep, caller: CallerDep) -> bytes:
    return await _read(request, caller, limit=MAX_BODY_BYTES)


async def _data_body(request: Request, _stream: StreamDep, caller: CallerDep) -> bytes:
    return await _read(request, caller, limit=MAX_DATA_BYTES)


BodyDep = Annotated[bytes, Depends(_body)]
"""The body of a request."""
DataBodyDep = Annotated[bytes, Depends(_data_body)]
"""The body of a request that carries data to train on or to sample from."""


async def _request_key(request: Request) -> str:
    return sent_key(request.headers) or new_id("req")


RequestKeyDep = Annotated[str, Depends(_request_key)]
"""Key that all repetitions of a request share."""


def answer(content: object) -> Response:
    """Return a JSON answer; None in a struct or mapping becomes null."""
    return Response(msgspec.json.encode(content), media_type=JSON)
