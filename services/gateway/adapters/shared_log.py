"""One reading of the log for all event streams of the same subjects that begin now.

Invariants: a stream gets each message once and in order, as from a reading of its own; a stream whose reader
is too slow ends with EventsExpired, and the others go on.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mint_common.bus.port import EventLog, PlacedMessage, Replay
from mint_common.errors import EventsExpired, Unavailable
from mint_common.runtime.clock import Clock
from mint_common.waiting import cancel_all

UNREAD_BYTES = 1 << 20
"""Maximum size of the messages that wait for one stream."""
JOINED_SECONDS = 3600.0
"""Age of a reading's place up to which streams join it. A place is valid while its event is stored."""

_log = logging.getLogger(__name__)


class SharedLog:
    """See `mint_common.bus.port.EventLog`. A stream that begins after a place has a reading of its own."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._readings: dict[tuple[str, ...], _Reading] = {}

    @asynccontextmanager
    async def replay(self, *, subjects: Sequence[str], after: str | None) -> AsyncIterator[Replay]:
        """Open a reading after a place; None: from now on. Raises EventsExpired, Unavailable."""
        if after is not None:
            async with self._log.replay(subjects=subjects, after=after) as own:
                yield own
            return
        key = tuple(sorted(set(subjects)))
        reading = self._readings.get(key)
        if reading is None or not reading.may_be_joined:
            reading = self._readings[key] = _Reading(self._log, key, self._clock)
        follower = _Follower()
        try:
            await reading.join(follower)
            yield follower
        finally:
            await reading.leave(follower)
            if reading.has_ended and self._readings.get(key) is reading:
                del self._readings[key]


class _Follower:
    """The messages of one stream that it has not read yet. See `mint_common.bus.port.Replay`."""

    def __init__(self) -> None:
        self.place = ""
        self._unread = deque[PlacedMessage]()
        self._bytes = 0
        self._error: Exception | None = None
        self._told = asyncio.Event()

    def give(self, placed: PlacedMessage) -> None:
        """Add a message, or end the stream if too much is unread."""
        if self._error is not None:
            return
        self._bytes += len(placed.message.data)
        if self._bytes > UNREAD_BYTES:
            self.end(EventsExpired(place=self.place))
            return
        self._unread.append(placed)
        self._told.set()

    def end(self, error: Exception) -> None:
        """End the stream after the messages that it has."""
        self._error = self._error or error
        self._told.set()

    def __aiter__(self) -> "_Follower":
        return self

    async def __anext__(self) -> PlacedMessage:
        while not self._unread:
            if self._error is not None:
                raise self._error
            self._told.clear()
            await self._told.wait()
        placed = self._unread.popleft()
        self._bytes -= len(placed.message.data)
        self.place = placed.place
        return placed


class _Reading:
    """A reading that ends when its last follower leaves."""

    def __init__(self, log: EventLog, subjects: Sequence[str], clock: Clock) -> None:
        self.has_ended = False
        self._clock = clock
        self._followers = set[_Follower]()
        self._place = ""
        self._placed_at = clock.monotonic()
        self._opened = asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._read(log, subjects))

    @property
    def may_be_joined(self) -> bool:
        """Return whether it goes on, at a place that is not old."""
        return not self.has_ended and self._clock.monotonic() - self._placed_at < JOINED_SECONDS

    async def join(self, follower: _Follower) -> None:
        """Give a stream all messages from now on. Raises EventsExpired, Unavailable."""
        follower.place = self._place
        self._followers.add(follower)
        await asyncio.shield(self._opened)

    async def leave(self, follower: _Follower) -> None:
        """Give a stream no more messages."""
        self._followers.discard(follower)
        if not self._followers:
            self.has_ended = True
            await cancel_all(self._task)

    async def _read(self, log: EventLog, subjects: Sequence[str]) -> None:
        error: Exception | None = None
        try:
            async with log.replay(subjects=subjects, after=None) as events:
                self._place = events.place
                for follower in self._followers:
                    follower.place = events.place
                self._opened.set_result(None)
                async for placed in events:
                    self._place, self._placed_at = placed.place, self._clock.monotonic()
                    for follower in self._followers:
                        follower.give(placed)
        except (EventsExpired, Unavailable) as ended:
            error = ended
        except Exception:  # noqa: BLE001  # logged: the streams end, and may be opened again
            _log.exception("reading of the log failed")
        finally:
            self.has_ended = True
            error = error or EventsExpired(place=self._place)
            if not self._opened.done():
                self._opened.set_exception(error)
                self._opened.exception()  # retrieved: every stream may have left
            for follower in self._followers:
                follower.end(error)
