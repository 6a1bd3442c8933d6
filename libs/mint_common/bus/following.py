"""Hears messages as they pass by, through outages of the bus."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from mint_common.bus.port import Bus, Message
from mint_common.errors import Unavailable
from mint_common.waiting import raise_if_cancelled

AGAIN_SECONDS = 1.0

_log = logging.getLogger(__name__)


async def follow_bus(
    bus: Bus,
    subjects: Sequence[str],
    hear: Callable[[Message], None],
    *,
    on_gap: Callable[[], None] = lambda: None,
) -> None:
    """Hand on every message from now on, until cancelled.

    ``on_gap`` is called when some may have been missed: whenever listening begins, when it breaks off,
    after every try to listen that fails, and when the bus was away meanwhile.
    """
    is_told = False
    while True:
        try:
            async with bus.watch(subjects=subjects, on_gap=on_gap) as messages:
                is_told = False
                on_gap()
                async for message in messages:
                    hear(message)
        except Unavailable as error:
            raise_if_cancelled()
            if not is_told:  # once an outage
                _log.warning(
                    "messages are not heard", extra={"subjects": list(subjects), "problem": str(error)}
                )
            is_told = True
        on_gap()
        await asyncio.sleep(AGAIN_SECONDS)
