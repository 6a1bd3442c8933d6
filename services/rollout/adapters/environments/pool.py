"""The workers of one environment: each runs several episodes at a time, and is replaced when it is used up.

Invariants: an episode that runs too long ends alone if its code lets it, else with its worker; a worker that
ends is found guilty only if it had one call: of several, each caller may repeat its episode, which then runs
alone.
"""

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.rollout.adapters.environments.process import EnvironmentWorker
from services.rollout.adapters.workers.process import WorkerEndedError

_GRACE_SECONDS = 2.0
"""Time that a cancelled call has to end before its worker is killed."""
_SPREAD = 8
"""Calls that each worker has before another one starts."""
SHORT_CALLS = 8
"""Descriptions and draws that a worker has beside as many episodes as it may have."""
_MAX_CALLS = 5000
"""Calls after which a worker is replaced."""
_IDLE_SECONDS = 600.0
_MAX_SUSPECTS = 10_000
_GROWTH_BYTES = 256 << 20
_MAX_PROCESSES = 512
_FIRST_PROCESSES, _GROWTH_PROCESSES = 64, 64
"""Processes that an environment may start for itself, and that episodes may leave before it is replaced."""

_log = logging.getLogger(__name__)

Start = Callable[[], Awaitable[EnvironmentWorker]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentLimits:
    """Workers of an environment, the calls of each at a time, and the memory of its processes."""

    workers: int
    calls: int
    memory_bytes: int


class CallExpired(Exception):
    """A call took longer than it may."""


class EnvironmentEnded(Exception):
    """A worker ended with a call; ``is_guilty``: it was the only one."""

    def __init__(self, problem: str, *, is_guilty: bool) -> None:
        super().__init__(problem)
        self.is_guilty = is_guilty


class _Held:
    """A worker, and what the pool knows of it."""

    def __init__(self, worker: EnvironmentWorker) -> None:
        self.worker = worker
        self.used_at = time.monotonic()
        self.first_use = (math.inf, math.inf)
        self.is_retiring = False
        self.hung = False


class EnvironmentPool:
    """Runs calls in workers that ``start`` starts."""

    def __init__(self, start: Start, limits: EnvironmentLimits, *, name: str) -> None:
        self._start = start
        self._limits = limits
        self._name = name
        self._held: list[_Held] = []
        self._alone: list[_Held] = []
        self._starting, self._one_alone = asyncio.Lock(), asyncio.Lock()
        self._room = asyncio.Condition()
        self._suspects: OrderedDict[str, None] = OrderedDict()
        self._settling: set[asyncio.Task[None]] = set()

    async def call(
        self, call: Mapping[str, Any], *, seconds: float, ids: Sequence[str] = (), room: int | None = None
    ) -> Any:  # JSON
        """Return the answer to a call.

        ``ids`` name its episodes, which a worker takes that has fewer than ``room`` calls. Raises
        EnvironmentRefused, CallExpired, EnvironmentEnded, WorkerEndedError when no worker starts. Cancelling
        ends the call.
        """
        if not any(name in self._suspects for name in ids):
            most = self._limits.calls if ids else self._limits.calls + SHORT_CALLS
            return await self._call_in(await self._take(room or most), call, seconds, ids)
        async with self._one_alone:
            answer = await self._call_in(await self._take_alone(), call, seconds, ids)
        for name in ids:
            self._suspects.pop(name, None)
        return answer

    async def _call_in(self, held: _Held, call: Mapping[str, Any], seconds: float, ids: Sequence[str]) -> Any:
        worker = held.worker
        number, answer = worker.begin(call)
        held.used_at = time.monotonic()
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            worker.cancel(number)
            await self._settle(held, answer)
            raise CallExpired(f"it took more than {seconds:g} s") from error
        except asyncio.CancelledError:
            worker.cancel(number)
            settling = asyncio.create_task(self._settle(held, answer))
            self._settling.add(settling)
            settling.add_done_callback(self._settling.discard)
            raise
        except WorkerEndedError as error:
            is_guilty = worker.calls_at_end <= 1
            if not is_guilty and not held.hung:
                self._suspect(ids)
            raise EnvironmentEnded(str(error), is_guilty=is_guilty) from error
        finally:
            await self._wake()

    async def _settle(self, held: _Held, answer: "asyncio.Future[Any]") -> None:
        """Wait for the end of a cancelled call, and kill its worker if it does not end."""
        await asyncio.wait((answer,), timeout=_GRACE_SECONDS)
        if not answer.done():
            held.hung = True
            held.worker.kill("another call did not end in its time")

    def _suspect(self, ids: Sequence[str]) -> None:
        self._suspects.update(dict.fromkeys(ids))
        while len(self._suspects) > _MAX_SUSPECTS:
            self._suspects.popitem(last=False)

    async def _take(self, room: int) -> _Held:
        """Return the worker with the fewest calls, fewer than ``room``; start one if all have many."""
        while True:
            if self._needs_another(room):
                async with self._starting:
                    if self._needs_another(room):
                        self._held.append(_Held(await self._start()))
                await self._wake()
            found = min(self._usable(), key=lambda each: each.worker.calls, default=None)
            if found is not None and found.worker.calls < room:
                return found
            async with self._room:
                await self._room.wait()

    def _usable(self) -> list[_Held]:
        return [each for each in self._held if not each.is_retiring and not each.worker.ended.is_set()]

    def _needs_another(self, room: int) -> bool:
        usable = self._usable()
        enough = min(_SPREAD, self._limits.calls, room)
        return len(usable) < self._limits.workers and all(each.worker.calls >= enough for each in usable)

    async def _take_alone(self) -> _Held:
        """Return the worker of calls that run alone."""
        if not self._alone or self._alone[0].worker.ended.is_set():
            started = _Held(await self._start())
            self._alone, gone = [started], self._alone
            for each in gone:
                await each.worker.end()
        return self._alone[0]

    async def _wake(self) -> None:
        async with self._room:
            self._room.notify_all()

    async def tend(self) -> None:
        """Replace workers that have ended, grown, done many calls or been idle; to be called each second."""
        for held in (*self._held, *self._alone):
            await self._tend(held)
        for place in (self._held, self._alone):
            for held in [each for each in place if self._is_gone(each)]:
                place.remove(held)
                _log.info(
                    "environment worker ended",
                    extra={"environment": self._name, "cause": held.worker.problem},
                )
                await held.worker.end()
        await self._wake()

    async def _tend(self, held: _Held) -> None:
        worker = held.worker
        most = self._limits.memory_bytes
        used_bytes, processes = await asyncio.to_thread(worker.usage, most_bytes=most)
        if used_bytes > most:
            worker.kill(f"its processes took more than {most >> 20} MiB")
        if processes > _MAX_PROCESSES:
            worker.kill(f"it started more than {_MAX_PROCESSES} processes")
        first_bytes, first_processes = held.first_use
        if worker.calls_done and (not worker.calls or first_bytes == math.inf):
            held.first_use = (min(first_bytes, used_bytes), min(first_processes, processes))
        is_grown = used_bytes > first_bytes + max(_GROWTH_BYTES, most / 4)
        is_grown |= processes > min(first_processes, _FIRST_PROCESSES) + _GROWTH_PROCESSES
        is_idle = not worker.calls and time.monotonic() - held.used_at > _IDLE_SECONDS
        held.is_retiring |= is_grown or is_idle or worker.calls_done >= _MAX_CALLS

    @staticmethod
    def _is_gone(held: _Held) -> bool:
        return held.worker.ended.is_set() or (held.is_retiring and not held.worker.calls)

    async def close(self) -> None:
        """End all workers."""
        for settling in self._settling:
            settling.cancel()
        for held in (*self._held, *self._alone):
            await held.worker.end()
