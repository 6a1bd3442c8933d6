"""Limits on slow requests: minimum rates, and the error of a client below them.

Only time spent waiting for the client counts, not the service's own work between two chunks of a body.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import Message, Receive, Send

from mint_common.errors import MintError

T = TypeVar("T")


class BodyTooSlow(MintError):
    """The request body came too slowly: {received_bytes} bytes in {waited_seconds} s."""

    code = "body_too_slow"
    http_status = 400  # 408 would be the word for it, but clients repeat that, at the same speed


class ReaderTooSlow(MintError):
    """The answer was read too slowly: {sent_bytes} bytes in {waited_seconds} s."""

    code = "reader_too_slow"
    http_status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class MinRate:
    """Minimum rate of a body or an answer, after ``grace_seconds``; long pauses are not allowed."""

    bytes_per_second: float
    grace_seconds: float
    stall_seconds: float

    def timeout_seconds(self, *, received_bytes: int, waited_seconds: float) -> float:
        """Return how long the next part may take from now on; the time is up at 0 and below."""
        allowed_seconds = self.grace_seconds + received_bytes / self.bytes_per_second
        return min(self.stall_seconds, allowed_seconds - waited_seconds)


BODY_RATE = MinRate(bytes_per_second=16 << 10, grace_seconds=10, stall_seconds=10)
"""Minimum rate of every request body: a modem's rate, and longer pauses than a working connection makes."""


class ClientWait:
    """Bytes to or from a client, and the time spent waiting for it."""

    def __init__(self, rate: MinRate) -> None:
        self.passed_bytes = 0
        self._rate = rate
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        """Return how long it was waited for the client so far, to a tenth."""
        return round(self._seconds, 1)

    async def wait_for(self, passing: Awaitable[T]) -> T:
        """Wait for the client. Raises TimeoutError once it is below the rate."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        timeout = self._rate.timeout_seconds(received_bytes=self.passed_bytes, waited_seconds=self._seconds)
        try:
            async with asyncio.timeout(timeout):
                return await passing
        finally:
            self._seconds += loop.time() - began


def paced(receive: Receive, rate: MinRate = BODY_RATE) -> Receive:
    """Return ``receive`` of a request, which raises BodyTooSlow until the body is whole."""
    waiting, is_whole = ClientWait(rate), False

    async def next_message() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            message = await waiting.wait_for(receive())
        except TimeoutError as error:
            raise BodyTooSlow(received_bytes=waiting.passed_bytes, waited_seconds=waiting.seconds) from error
        waiting.passed_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        return message

    return next_message


def read_in_time(send: Send, rate: MinRate) -> Send:
    """Return ``send`` of an answer, which raises ReaderTooSlow once its reader is below the rate."""
    waiting = ClientWait(rate)

    async def send_in_time(message: Message) -> None:
        try:
            await waiting.wait_for(send(message))
        except TimeoutError as error:
            raise ReaderTooSlow(sent_bytes=waiting.passed_bytes, waited_seconds=waiting.seconds) from error
        waiting.passed_bytes += len(message.get("body", b""))

    return send_in_time
