"""Cancels work when its client disconnects, so that no tokens are generated for a closed connection."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.types import Receive

from mint_common.errors import MintError


class ClientGone(MintError):
    """The client closed the connection before the answer was ready."""

    code = "client_gone"
    http_status = 499


async def until_gone(receive: Receive) -> None:
    """Return when the client has gone. The request has been read before."""
    while (await receive())["type"] != "http.disconnect":
        continue


@asynccontextmanager
async def cancelled_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancel the body when the client disconnects, and raise ClientGone. The request has been read before."""
    work = asyncio.current_task()
    assert work is not None
    gone = False

    async def watch() -> None:
        nonlocal gone
        await until_gone(request.receive)
        gone = True
        work.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # As in asyncio.timeout: our own cancellation becomes an error, any other is re-raised.
        if gone and work.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        watcher.cancel()
