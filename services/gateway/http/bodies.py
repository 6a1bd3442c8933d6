"""Bodies of requests: read whole and bounded before the route's handler, unless the route streams its own.

Invariant: nothing of a body is read before its key is known and has the route's scope.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from mint_common.runtime.disconnect import ClientGone
from mint_common.runtime.edge_body import read_body, replayed

MAX_BODY_BYTES = 16 << 20


async def stream_of(request: Request) -> AsyncIterator[bytes]:
    """Return a body that nobody has read yet. Who takes it bounds it, and checks it."""
    return request.stream()


StreamDep = Annotated[AsyncIterator[bytes], Depends(stream_of)]
"""Says at a route that nothing reads or bounds its body before its handler does."""


async def admit_body(request: Request) -> Request:
    """Return the request with its body read. Raises BodyTooLarge, InvalidField, ClientGone."""
    body = await read_body(request.receive, request.headers, limit=MAX_BODY_BYTES)
    if body is None:
        raise ClientGone
    return Request(request.scope, replayed(body, request.receive))
