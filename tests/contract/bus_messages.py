"""Messages for the tests of a bus, sent and taken."""

import asyncio
import itertools
from collections.abc import AsyncIterator

from mint_common.bus.port import Bus, Delivery, Message

PATIENCE_SECONDS = 10.0

_NUMBERS = itertools.count(1)


def message(subject: str = "mint.test.a.t.b", data: bytes = b"{}", **headers: str) -> Message:
    """Return a message with an id of its own."""
    return Message(id=f"m{next(_NUMBERS)}", subject=subject, data=data, headers=headers)


async def publish_all(bus: Bus, count: int, subject: str = "mint.test.a.t.b") -> list[str]:
    """Publish some messages in order and return their ids."""
    messages = [message(subject) for _ in range(count)]
    for each in messages:
        await bus.publish(each)
    return [each.id for each in messages]


async def take(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[Delivery]:
    """Return the next deliveries."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return [await anext(deliveries) for _ in range(count)]


async def take_and_ack(deliveries: AsyncIterator[Delivery], count: int = 1) -> list[str]:
    """Ack the next deliveries and return their ids."""
    ids = []
    for _ in range(count):
        (delivery,) = await take(deliveries)
        await delivery.ack()
        ids.append(delivery.message.id)
    return ids
