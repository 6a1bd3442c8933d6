"""Bodies of requests: read whole and within a limit before the route's handler, unless the route streams its
body.

Invariants: a body is read only after its key is verified and has the route's scope; its bytes count for its
tenant until the answer has been sent.
"""

from contextlib import ExitStack
from typing import cast

from fastapi import Request

from mint_common.authority import Caller
from mint_common.runtime.disconnect import ClientGone, cancelled_on_disconnect
from mint_common.runtime.edge_body import announced_bytes, check_text, read_body, replayed
from mint_common.tenant_budget import BodiesFull
from services.gateway.http.edge.context import EDGE, EdgeParts

LARGE_JSON_BYTES = 64 << 10
"""Size from which decoding takes milliseconds of the event loop; such bodies take turns."""


def answered(request: Request) -> ExitStack:
    """Return the stack that is closed when the answer has been sent or its client is gone."""
    return cast(ExitStack, request.state.answered)


class HeldBytes:
    """The share of one request in the memory for bodies."""

    def __init__(self, edge: EdgeParts, caller: Caller) -> None:
        self._budgets = (edge.bodies, caller.tenant_id), (edge.key_bodies, caller.key_id)
        self._size_bytes = 0

    def check_room(self, size_bytes: int) -> None:
        """Refuse bytes that do not fit. Raises BodiesFull."""
        for budget, holder in self._budgets:
            if not budget.fits(holder, size_bytes):
                raise BodiesFull(size_bytes=size_bytes, retry_after_seconds=budget.retry_after_seconds)

    def add(self, size_bytes: int) -> None:
        """Add bytes. Raises BodiesFull."""
        self.check_room(size_bytes)
        self._take(size_bytes)

    def release(self) -> None:
        """Release all bytes."""
        self._take(-self._size_bytes)

    def _take(self, size_bytes: int) -> None:
        for budget, holder in self._budgets:
            budget.take(holder, size_bytes)
        self._size_bytes += size_bytes


async def hold_body(request: Request, caller: Caller, *, limit: int) -> tuple[bytes, HeldBytes]:
    """Read a body. Raises BodyTooLarge, BodyTooSlow, BodiesFull, ClientGone."""
    held = HeldBytes(EDGE.of(request), caller)
    answered(request).callback(held.release)
    held.check_room(announced_bytes(request.headers, limit=limit))
    body = await read_body(request.receive, request.headers, limit=limit, hold=held.add)
    if body is None:
        raise ClientGone
    return body, held


async def admit_body(request: Request, caller: Caller, *, limit: int) -> Request:
    """Return the request with its body read; a large body waits for its turn."""
    body, _ = await hold_body(request, caller, limit=limit)
    await take_turn(request, caller, size_bytes=len(body))
    check_text(body, request.headers)
    return Request(request.scope, replayed(body, request.receive))


async def take_turn(request: Request, caller: Caller, *, size_bytes: int) -> None:
    """Wait for the turn to decode JSON of that size. Raises Overloaded, ClientGone."""
    if size_bytes > LARGE_JSON_BYTES:
        async with cancelled_on_disconnect(request):
            await EDGE.of(request).body_admission.admit(caller.tenant_id)
