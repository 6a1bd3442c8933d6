"""A body that is passed on as it comes, and is still known afterwards."""

import hashlib

from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive


class StreamedBody:
    """Hashes a request's body while somebody reads it through `receive`. Holds none of it."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = hashlib.sha256()
        self._ended = False

    async def receive(self) -> Message:
        """Return the next message of the request (ASGI)."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen.update(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        return message

    async def sha256(self) -> str:
        """Read what nobody has read, and return the hash of all. Raises ClientDisconnect."""
        while not self._ended:
            if (await self.receive())["type"] == "http.disconnect":
                raise ClientDisconnect
        return self._seen.hexdigest()
