"""Publish numbered messages without end from a host of its own: `publisher.py ADDRESSES`.

Prints each batch's last number and the seconds since the batch before was on disk.
"""

import asyncio
import itertools
import sys
import time

from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Message
from mint_common.errors import Unavailable


async def publish(addresses: str) -> None:
    """Publish until killed."""
    while True:
        try:
            bus = await connect_nats(addresses, name="publisher", replicas=3)
        except Unavailable:
            await asyncio.sleep(0.2)
        else:
            break
    stored = time.monotonic()
    for first in itertools.count(0, 20):
        batch = [Message(id=f"m{first + n}", subject="mint.test.a.t.b", data=b"{}") for n in range(20)]
        while True:
            try:
                await bus.publish_in_order(batch)
            except Unavailable:
                continue
            break
        now = time.monotonic()
        print(first + 19, now - stored, flush=True)
        stored = now
        await asyncio.sleep(0.02)


asyncio.run(publish(sys.argv[1]))
