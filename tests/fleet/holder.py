"""Hold a relay's lock over a service's pool, as a process on a host of its own: `holder.py DSN`.

Prints "held" once it is held, and the seconds until its own statement fails after a line on its input.
"""

import asyncio
import sys
import time

from mint_common.errors import Unavailable
from mint_common.runtime.postgres import open_pool, translating_errors

LOCK = "SELECT pg_try_advisory_lock(hashtextextended('mint_relay_registry', 0))"


async def hold(dsn: str) -> None:
    """Hold the lock until the process ends."""
    pool = await open_pool(dsn, schema="registry", max_size=1)
    async with pool.acquire() as session:
        while not await session.fetchval(LOCK):
            await asyncio.sleep(0.1)
        print("held", time.time(), flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began = time.monotonic()
        try:
            with translating_errors():
                await session.fetchval("SELECT 1")
        except Unavailable:
            print(time.monotonic() - began, flush=True)


asyncio.run(hold(sys.argv[1]))
