"""Stream an answer of the engine as it arrives; output for a slow reader waits outside the engine."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from fastapi import Response
from starlette.types import Receive, Scope, Send

from mint_common.errors import EngineDied
from mint_common.runtime.disconnect import until_gone
from mint_common.tenant_budget import TenantBudget


class StepStream(Response):
    """Streams arriving output, all available parts together; a client that leaves cancels it, once.

    Starlette's own StreamingResponse cancels through anyio repeatedly until the task ends, so that
    the clean-up could not await anything; aborting the engine's request needs that.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        *,
        headers: Mapping[str, str],
        unread: TenantBudget,
        tenant: str,
    ) -> None:
        """``unread`` counts the bytes of each tenant that its readers have not read yet."""
        self._parts = parts
        self._unread = unread
        self._tenant = tenant
        self._unread_bytes = 0
        self._is_broken = False
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store", **headers})
        del self.headers["content-length"]
        self._come: list[bytes] = []
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        """Send until the end or until the client has gone.

        The death of the engine leaves the answer without its end, and so breaks the connection: the other
        side knows by that, whatever has been said.
        """
        try:
            async with aclosing(self._parts), asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(each) for each in (self._take(), self._send(send), until_gone(receive))
                ]
                await asyncio.wait(tasks[1:], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        finally:
            self._note(-self._unread_bytes)

    def _note(self, size_bytes: int) -> None:
        self._unread_bytes += size_bytes
        self._unread.take(self._tenant, size_bytes)

    def _has_room(self) -> bool:
        """Return whether more may be left unread; a stream that leaves nothing always may."""
        return not self._unread_bytes or self._unread.fits(self._tenant)

    async def _take(self) -> None:
        """Take all that the engine makes; the adapter is held until the last of it."""
        try:
            async for part in self._parts:
                self._come.append(part)
                self._note(len(part))
                self._news.set()
                while not self._has_room():
                    self._room.clear()
                    await self._room.wait()
        except EngineDied:
            self._is_broken = True
        self._come.append(b"")
        self._news.set()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        is_open = True
        while is_open:
            await self._news.wait()
            self._news.clear()
            come, self._come = self._come, []
            is_open = come[-1] != b""
            body, is_whole = b"".join(come), not is_open and not self._is_broken
            await send({"type": "http.response.body", "body": body, "more_body": not is_whole})
            self._note(-len(body))
            self._room.set()
