"""What the engines of a base take, where it is known in time."""

import asyncio

from mint_common.client.directory import EngineDirectory
from mint_common.errors import Unavailable
from mint_common.generation import EngineLimits
from mint_common.ids import BaseName

_SECONDS = 5.0


async def known_limits(engines: EngineDirectory, base: BaseName) -> EngineLimits | None:
    """Return what every known engine of a base takes; None while none answers."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await engines.limits(base)
    except (Unavailable, TimeoutError):
        return None
