"""An answer that is handed on: its bytes as they come, unread."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import aiohttp

from mint_common.errors import MintError

Translated = Callable[[], AbstractContextManager[None]]
"""Turns errors of the connection into MintErrors."""


class Relayed:
    """A good answer of another service that has begun. Its methods raise Unavailable."""

    def __init__(self, response: aiohttp.ClientResponse, translated: Translated) -> None:
        self._response = response
        self._translated = translated
        self._at_end: list[Callable[[MintError | None], None]] = []
        self._failure: MintError | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the answer's headers."""
        return self._response.headers

    @property
    def is_stream(self) -> bool:
        """Return whether the answer is a stream of events."""
        return self._response.content_type == "text/event-stream"

    @property
    def is_whole(self) -> bool:
        """Return whether all of the answer has come."""
        content = self._response.content
        return self._failure is None and content.is_eof() and content.exception() is None

    async def whole(self) -> bytes:
        """Return all of the body."""
        with self._noted():
            return await self._response.read()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the received parts, then the rest as it arrives."""
        with self._noted():
            while part := await self._response.content.readany():
                yield part

    def at_end(self, call: Callable[[MintError | None], None]) -> None:
        """Have something called when this is closed, with the error that ended the reading, if one did."""
        self._at_end.append(call)

    def close(self) -> None:
        """Give the connection back; one with something unread is closed, which cancels its request."""
        try:
            while self._at_end:
                self._at_end.pop()(self._failure)
        finally:
            self._response.close()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note the MintError that ends the reading."""
        try:
            with self._translated():
                yield
        except MintError as error:
            self._failure = error
            raise
