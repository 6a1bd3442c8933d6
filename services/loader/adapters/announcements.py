"""Residency events on the bus: in order, in the background, each in the trace of the load it speaks of.

They are news for those who will ask; who has asked waits for the loader itself. So they wait, for a bounded
time, while requests wait for loads, slots or first tokens.
"""

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable

from mint_common.bus.port import Bus
from mint_common.errors import MintError
from mint_common.events.event import Event
from mint_common.runtime.clock import Clock
from mint_common.runtime.dispatch import publish_event

_log = logging.getLogger(__name__)

_MAX_WAITING = 4096
_RETRY_SECONDS = 0.5
_LATEST_SECONDS = 0.5
_LOOK_SECONDS = 0.02

_Item = tuple[Event, str, contextvars.Context, float]
"""An event, its cause, its trace, and when it is published at the latest."""


class BusAnnouncements:
    """Publishes announcements.

    Events are bounded and the oldest are dropped first when the bus is down for long: they are news, and the
    current state can be read from the engine itself at any time.
    """

    def __init__(self, bus: Bus, clock: Clock, *, is_busy: Callable[[], bool] = lambda: False) -> None:
        """``is_busy``: whether requests wait for the loader's processor."""
        self._bus = bus
        self._clock = clock
        self._is_busy = is_busy
        self._waiting: deque[_Item] = deque(maxlen=_MAX_WAITING)
        self._arrived = asyncio.Event()

    def announce(self, event: Event, *, cause: str) -> None:
        """Send an event in the order of calls, in the background; never blocks."""
        latest = self._clock.monotonic() + _LATEST_SECONDS
        self._waiting.append((event, cause, contextvars.copy_context(), latest))
        self._arrived.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                if not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                if self._is_busy() and self._clock.monotonic() < self._waiting[0][3]:
                    await self._clock.sleep(_LOOK_SECONDS)
                    continue
                event, cause, context, _ = self._waiting.popleft()
                await group.create_task(self._publish(event, cause), context=context)

    async def _publish(self, event: Event, cause: str) -> None:
        while True:
            try:
                return await publish_event(self._bus, event, cause=cause, now=self._clock.now())
            except MintError as error:
                if not error.retryable:
                    raise
                _log.warning("bus is away", extra={"waiting": len(self._waiting)})
            await self._clock.sleep(_RETRY_SECONDS)
