"""A pool with a bounded number of worker processes.

Invariants: a worker has one call at a time; a call that takes too long, or whose caller has left, is ended by
killing its worker, which is replaced; a call whose worker ended by itself is tried once more.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mint_common.errors import TaskFailed, Unavailable
from mint_common.waiting import cancel_all
from services.rollout.adapters.workers.process import WorkerEndedError, WorkerProcess, start_worker

_RETRY_SECONDS = 1.0
_GRACE_SECONDS = 0.25
"""Time that a call may run on after its caller has left: cheaper than starting another process."""
_TRIES = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """The number of workers and the limits of one call."""

    workers: int
    call_seconds: float
    memory_bytes: int


class WorkerPool:
    """Workers with the same task families; see `open_workers`."""

    def __init__(self, families: Mapping[str, str], limits: WorkerLimits) -> None:
        self._families = families
        self._limits = limits
        self._idle: list[WorkerProcess] = []
        self._free = asyncio.Semaphore(0)
        self._settling: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def ask(self, call: bytes, *, task: str, doing: str) -> bytes:
        """Return the answer. Raises TaskFailed naming the task, and Unavailable once the pool is closed.

        ``doing`` is the beginning of the time-out message. Cancelling frees the worker.
        """
        problem = ""
        for _ in range(_TRIES):
            worker = await self._take(task)
            asking = asyncio.ensure_future(worker.ask(call))
            try:
                async with asyncio.timeout(self._limits.call_seconds):
                    answer = await asyncio.shield(asking)
            except asyncio.CancelledError:
                self._settle(worker, asking)
                raise
            except TimeoutError as error:
                asking.cancel()
                self._replace(worker, task=task, cause="time")
                raise TaskFailed(task=task, problem=self._too_long(doing)) from error
            except WorkerEndedError as ended:
                problem = str(ended)
                self._replace(worker, task=task, cause=problem)
            else:
                worker.last_task = task
                self._give_back(worker)
                return answer
        raise TaskFailed(task=task, problem=f"{problem}, twice")

    async def _take(self, task: str) -> WorkerProcess:
        """Return an idle worker, preferably one that has loaded the task's code and items."""
        await self._free.acquire()
        if self._is_closed:
            self._free.release()
            raise Unavailable(what="the worker of a task", problem="this rollout process is stopping")
        for worker in reversed(self._idle):
            if worker.last_task == task:
                self._idle.remove(worker)
                return worker
        return self._idle.pop()

    def _give_back(self, worker: WorkerProcess) -> None:
        self._idle.append(worker)
        self._free.release()

    def _replace(self, worker: WorkerProcess, *, task: str, cause: str) -> None:
        _log.warning("worker replaced", extra={"pid": worker.pid, "task": task, "cause": cause})
        worker.leaving.set()

    def _settle(self, worker: WorkerProcess, asking: "asyncio.Task[bytes]") -> None:
        """Return a worker to the pool after its caller has left, or end it if it is still busy."""
        settling = asyncio.ensure_future(self._await_settled(worker, asking))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)

    async def _await_settled(self, worker: WorkerProcess, asking: "asyncio.Task[bytes]") -> None:
        await asyncio.wait((asking,), timeout=_GRACE_SECONDS)
        if asking.done() and not asking.cancelled() and asking.exception() is None:
            self._give_back(worker)
        else:
            asking.cancel()
            self._replace(worker, task=worker.last_task, cause="its caller has left")

    def _too_long(self, doing: str) -> str:
        seconds = self._limits.call_seconds
        return f"{doing} took more than {seconds:g} s: ask for less at once, or set MINT_ROLLOUT_TASK_SECONDS"

    async def run(self) -> None:
        """Run the workers until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.workers):
                    group.create_task(self._keep_one())
        finally:
            self._is_closed = True
            self._free.release()  # every waiting caller wakes the next one
            for settling in self._settling:
                settling.cancel()

    async def _keep_one(self) -> None:
        """Start a worker, and restart it whenever it ends."""
        while True:
            try:
                worker = await start_worker(self._families, memory_bytes=self._limits.memory_bytes)
            except (OSError, TimeoutError, WorkerEndedError) as error:
                _log.warning("worker does not start", extra={"problem": str(error)})
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            try:
                self._give_back(worker)
                await worker.leaving.wait()
            finally:
                await worker.end()


@asynccontextmanager
async def open_workers(families: Mapping[str, str], limits: WorkerLimits) -> AsyncIterator[WorkerPool]:
    """Run workers within the block."""
    pool = WorkerPool(families, limits)
    running = asyncio.create_task(pool.run())
    try:
        yield pool
    finally:
        await cancel_all(running)
