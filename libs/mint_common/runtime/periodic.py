"""Periodic work such as pruning: an outage skips one run, and never ends the process."""

import logging
from collections.abc import Awaitable, Callable

from mint_common.errors import Unavailable
from mint_common.runtime.clock import Clock
from mint_common.waiting import raise_if_cancelled

_log = logging.getLogger(__name__)


async def run_periodically(
    work: Callable[[], Awaitable[None]], *, name: str, every_seconds: float, clock: Clock
) -> None:
    """Do the work now and after each pause, until cancelled. A turn that finds a server away is left out."""
    while True:
        try:
            await work()
        except Unavailable as error:
            raise_if_cancelled()
            _log.warning("periodic work left out", extra={"work": name, "problem": str(error)})
        await clock.sleep(every_seconds)
