"""Stored bytes as an answer."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Download(StreamingResponse):
    """Stored bytes, ``counted`` among a tenant's open downloads while they are read.

    Each download holds a part of a blob in memory while its client reads. Answers 429 instead when
    ``counted`` raises Overloaded.
    """

    def __init__(
        self,
        content: AsyncIterator[bytes],
        *,
        counted: AbstractContextManager[None],
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/octet-stream",
    ) -> None:
        # A browser's session reads downloads too: bytes of users are never taken for a page.
        safe = {**(headers or {}), "x-content-type-options": "nosniff"}
        super().__init__(content, headers=safe, media_type=media_type)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._counted:
            await super().__call__(scope, receive, send)
