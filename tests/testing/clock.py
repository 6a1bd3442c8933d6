"""A time that a test turns."""

import asyncio


class ManualClock:
    """A time that only moves when a test advances it."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now(self) -> float:
        """Return the seconds that the test has let pass, from ``start``."""
        return self._now

    def monotonic(self) -> float:
        """Return the same as `now`."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the test has advanced the time that far; a wait of nothing only yields."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._now + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Advance the time, wake sleepers in order, and run the tasks that they wake."""
        end = self._now + seconds
        await settle()
        while due := [entry for entry in self._sleepers if entry[0] <= end]:
            entry = min(due, key=lambda sleeper: sleeper[0])
            self._sleepers.remove(entry)
            self._now = max(self._now, entry[0])
            if not entry[1].done():
                entry[1].set_result(None)
            await settle()
        self._now = end
        await settle()


async def settle(turns: int = 50) -> None:
    """Run every task that can run without advancing the time."""
    for _ in range(turns):
        await asyncio.sleep(0)
