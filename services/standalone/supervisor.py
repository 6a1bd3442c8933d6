"""Keeps the parts of a stack running: start in order, restart with backoff, stop in reverse.

One task per part owns that part's process; nothing else starts or ends it.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from mint_client.core.refusals import LocalFailureError
from mint_common.runtime.clock import Clock
from mint_common.waiting import cancel_all
from services.standalone.adapters.processes import LocalProcess, LocalProcesses
from services.standalone.core.lifecycle import (
    PartState,
    PartStatus,
    on_exit,
    on_not_started,
    on_ready,
    on_started,
    on_stop,
    on_stopped,
)
from services.standalone.core.parts import StackPart, may_start, stop_levels

PROBE_SECONDS = 0.05
SILENT_PROBES = 12
"""Consecutive unanswered probes after which a part hangs: a count, because the whole machine may have
slept.
"""

Observer = Callable[[Mapping[str, PartStatus]], None]
"""Called with the state of all parts after each change. Must return at once and not raise."""


class Supervisor:
    """Runs a set of parts until it is asked to stop."""

    def __init__(
        self,
        parts: Sequence[StackPart],
        processes: LocalProcesses,
        *,
        clock: Clock,
        rng: random.Random,
        observers: Sequence[Observer] = (),
    ) -> None:
        self._parts = {part.name: part for part in parts}
        self._levels = stop_levels(parts)
        self._processes = processes
        self._clock = clock
        self._rng = rng
        self._observers = observers
        self._statuses = {part.name: PartStatus(since=clock.monotonic()) for part in parts}
        self._stop_part = {part.name: asyncio.Event() for part in parts}
        self._changed = asyncio.Condition()
        self._stop = asyncio.Event()
        self._failure: LocalFailureError | None = None

    def stop(self) -> None:
        """Ask for the end; `run` returns when all parts have ended, in reverse order."""
        self._stop.set()

    async def all_ready(self) -> None:
        """Wait until every part that is not optional is ready at once.

        Raises LocalFailureError when the stack stops instead.
        """
        await self.any_ready([[name for name, part in self._parts.items() if not part.optional]])

    async def any_ready(self, sets: Sequence[Collection[str]]) -> None:
        """Wait until all parts of one of some sets are ready at once.

        Raises LocalFailureError when the stack stops instead.
        """

        def are_ready() -> bool:
            ready = self._ready()
            return any(all(ready[name] for name in names) for names in sets)

        async with self._changed:
            await self._changed.wait_for(lambda: are_ready() or self._stop.is_set())
        if not are_ready():
            raise self._failure or LocalFailureError(
                what="the stack", problem="it was stopped while starting"
            )

    async def ended(self) -> None:
        """Wait until the stack was asked to stop, or stops because a part never became ready."""
        await self._stop.wait()

    async def run(self) -> None:
        """Run until `stop`, then end all parts. Raises LocalFailureError when one never became ready."""
        async with asyncio.TaskGroup() as tasks:
            started = {name: tasks.create_task(self._supervise(part)) for name, part in self._parts.items()}
            try:
                await self._stop.wait()
            finally:
                self._stop.set()
                await self._end_in_order(started)
        if self._failure is not None:
            raise self._failure

    async def _end_in_order(self, started: Mapping[str, asyncio.Task[None]]) -> None:
        async with self._changed:
            self._changed.notify_all()
        for level in self._levels:
            for name in level:
                self._stop_part[name].set()
            await asyncio.wait([started[name] for name in level])

    async def _supervise(self, part: StackPart) -> None:
        stop = self._stop_part[part.name]
        while not stop.is_set():
            await _first(stop.wait, lambda: self._needs_ready(part))
            if stop.is_set():
                break
            await self._run_once(part)
            status = self._statuses[part.name]
            if status.state is PartState.FAILED:
                if not part.optional:
                    self._stop.set()
                await stop.wait()
            elif status.state is PartState.RESTARTING:
                rest = max(0.0, status.resume_at - self._clock.monotonic())
                await _first(stop.wait, lambda seconds=rest: self._clock.sleep(seconds))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        await self._become(part, on_stop(self._statuses[part.name], now=self._clock.monotonic()))

    async def _run_once(self, part: StackPart) -> None:
        """Run one process of the part to its end, for whatever reason it ends."""
        stop = self._stop_part[part.name]
        try:
            process = await self._processes.start(part.name)
        except LocalFailureError as error:
            now, jitter = self._clock.monotonic(), self._rng.random()
            await self._become(part, on_not_started(self._statuses[part.name], now=now, jitter=jitter))
            if self._statuses[part.name].state is PartState.FAILED and not part.optional:
                self._failure = self._failure or error
            return
        try:
            status = on_started(self._statuses[part.name], pid=process.pid, now=self._clock.monotonic())
            await self._become(part, status)
            await self._watch(part, process)
            if stop.is_set():
                await self._become(part, on_stop(self._statuses[part.name], now=self._clock.monotonic()))
        finally:
            await process.end(limit_seconds=part.stop_seconds)
        now = self._clock.monotonic()
        status = self._statuses[part.name]
        if status.state is PartState.STOPPING:
            await self._become(part, on_stopped(status, now=now))
        else:
            await self._become(part, on_exit(status, now=now, jitter=self._rng.random()))
            if self._statuses[part.name].state is PartState.FAILED and not part.optional:
                self._failure = self._failure or self._never_ready(part)

    async def _watch(self, part: StackPart, process: LocalProcess) -> None:
        """Return when the process has ended, must end, did not become ready in time, or hangs."""
        stop = self._stop_part[part.name]
        deadline = self._clock.monotonic() + part.ready_seconds

        async def until_ready() -> None:
            while self._clock.monotonic() < deadline:
                if await self._processes.is_ready(part.name):
                    await self._become(part, on_ready(self._statuses[part.name], now=self._clock.monotonic()))
                    return
                await self._clock.sleep(PROBE_SECONDS)

        await _first(process.exited, stop.wait, until_ready)
        if self._statuses[part.name].state is PartState.READY:
            await _first(process.exited, stop.wait, lambda: self._hangs(part))

    async def _hangs(self, part: StackPart) -> None:
        """Return when a part has answered no probe for `silent_seconds`."""
        seconds, unanswered = part.silent_seconds / SILENT_PROBES, 0
        while unanswered < SILENT_PROBES:
            probe = self._processes.is_alive(part.name, limit_seconds=seconds)
            is_alive, _ = await asyncio.gather(probe, self._clock.sleep(seconds))
            unanswered = 0 if is_alive else unanswered + 1

    async def _needs_ready(self, part: StackPart) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: may_start(part, self._statuses))

    def _never_ready(self, part: StackPart) -> LocalFailureError:
        attempts = self._statuses[part.name].starts
        tail = self._processes.log_tail(part.name)
        problem = f"it did not become ready in {attempts} attempts. The end of its log:\n{tail}"
        return LocalFailureError(what=part.name, problem=problem)

    async def _become(self, part: StackPart, status: PartStatus) -> None:
        self._statuses[part.name] = status
        for observe in self._observers:
            observe(self._statuses)
        async with self._changed:
            self._changed.notify_all()

    def _ready(self) -> dict[str, bool]:
        return {name: status.state is PartState.READY for name, status in self._statuses.items()}


async def _first(*waits: Callable[[], Awaitable[object]]) -> None:
    """Wait for the first of several awaitables and cancel the others. Raises the error of a finished one."""
    tasks = [asyncio.ensure_future(_run(wait)) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_all(*tasks)


async def _run(wait: Callable[[], Awaitable[object]]) -> None:
    await wait()
