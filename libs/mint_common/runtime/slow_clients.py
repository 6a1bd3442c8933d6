"""Bounds on slow requests: minimum rates, and the error of a client below them.

Only time spent waiting for the client counts, not what a service itself does between two chunks of a body.
"""

import asyncio
from dataclasses import dataclass

from starlette.types import Message, Receive, Send

from mint_common.errors import MintError


class BodyTooSlow(MintError):
    """The request body came too slowly: {received_bytes} bytes in {waited_seconds} s."""

    code = "body_too_slow"
    http_status = 400  # 408 would be the word for it, but clients repeat that, at the same speed


class ReaderTooSlow(MintError):
    """The answer was read too slowly: {sent_bytes} bytes in {waited_seconds} s."""

    code = "reader_too_slow"
    http_status = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastRate:
    """What a body, or an answer, may take: ``grace_seconds`` and its bytes at the rate, and no long pause."""

    bytes_per_second: float
    grace_seconds: float
    stall_seconds: float

    def patience_seconds(self, *, received_bytes: int, waited_seconds: float) -> float:
        """Return how long the next part may take from now on; the time is up at 0 and below."""
        allowed_seconds = self.grace_seconds + received_bytes / self.bytes_per_second
        return min(self.stall_seconds, allowed_seconds - waited_seconds)


BODY_RATE = LeastRate(bytes_per_second=16 << 10, grace_seconds=10, stall_seconds=10)
"""Of every body: a modem's rate, and longer pauses than a working connection makes."""


def paced(receive: Receive, rate: LeastRate = BODY_RATE) -> Receive:
    """Return ``receive`` of a request, which raises BodyTooSlow until the body is whole."""
    received_bytes, waited_seconds, is_whole = 0, 0.0, False

    async def next_message() -> Message:
        nonlocal received_bytes, waited_seconds, is_whole
        if is_whole:
            return await receive()
        loop = asyncio.get_running_loop()
        began = loop.time()
        patience = rate.patience_seconds(received_bytes=received_bytes, waited_seconds=waited_seconds)
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError as error:
            waited_seconds += loop.time() - began
            raise BodyTooSlow(
                received_bytes=received_bytes, waited_seconds=round(waited_seconds, 1)
            ) from error
        waited_seconds += loop.time() - began
        received_bytes += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        return message

    return next_message


def read_in_time(send: Send, rate: LeastRate) -> Send:
    """Return ``send`` of an answer, which raises ReaderTooSlow once its reader is below the rate."""
    sent_bytes, waited_seconds = 0, 0.0

    async def send_in_time(message: Message) -> None:
        nonlocal sent_bytes, waited_seconds
        loop = asyncio.get_running_loop()
        began = loop.time()
        patience = rate.patience_seconds(received_bytes=sent_bytes, waited_seconds=waited_seconds)
        try:
            async with asyncio.timeout(patience):
                await send(message)
        except TimeoutError as error:
            waited_seconds += loop.time() - began
            raise ReaderTooSlow(sent_bytes=sent_bytes, waited_seconds=round(waited_seconds, 1)) from error
        waited_seconds += loop.time() - began
        sent_bytes += len(message.get("body", b""))

    return send_in_time
