"""Bodies of the Tinker API: read whole and bounded, decompressed, decoded."""

from typing import Annotated

import msgspec
import zstandard
from fastapi import Depends, Request, Response

from mint_common.errors import BodyTooLarge, InvalidField
from mint_common.ids import new_id
from mint_common.runtime.edge_routes import StreamDep
from services.gateway.core.idempotency import sent_key
from services.gateway.core.tinker.futures import JSON, PROTOBUF
from services.gateway.http.edge.bodies import hold_body, take_turn
from services.gateway.http.edge.context import CallerDep

MAX_BODY_BYTES = 16 << 20
"""Of one body, before and after it is decompressed. Clients split a batch into parts of 5 MB."""
_WINDOW_BYTES = 8 << 20
"""What a decompressor may allocate, whatever a frame says that it needs."""


async def _body(request: Request, _stream: StreamDep, caller: CallerDep) -> bytes:
    body, held = await hold_body(request, caller, limit=MAX_BODY_BYTES)
    whole = _decompress(body, request.headers.get("content-encoding", "identity"))
    if whole is not body:
        held.add(len(whole))
    if PROTOBUF not in request.headers.get("content-type", ""):
        await take_turn(request, caller, size_bytes=len(whole))
    return whole


BodyDep = Annotated[bytes, Depends(_body)]
"""The body of a request."""


async def _request_key(request: Request) -> str:
    return sent_key(request.headers) or new_id("req")


RequestKeyDep = Annotated[str, Depends(_request_key)]
"""What all repetitions of a request have in common."""


def answer(content: object) -> Response:
    """Return a JSON answer; what is None in a struct or mapping goes out as null."""
    return Response(msgspec.json.encode(content), media_type=JSON)


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
