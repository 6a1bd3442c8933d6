"""The supervisor waits for all parts, or until the parts of one base are ready."""

import asyncio
import random

from mint_common.runtime.clock import SystemClock
from services.standalone.core.parts import StackPart
from services.standalone.supervisor import Supervisor

PARTS = [
    StackPart(name="gateway", calls=("loader-tiny", "loader-large")),
    StackPart(name="loader-tiny"),
    StackPart(name="loader-large"),
]


class Running:
    """A process that runs until it is ended."""

    pid = 1

    def __init__(self) -> None:
        self._over = asyncio.Event()

    async def exited(self) -> None:
        """Wait for the end."""
        await self._over.wait()

    async def end(self, *, limit_seconds: float) -> None:  # as LocalProcess
        """End at once."""
        self._over.set()


class Processes:
    """Processes in memory, of which one is not ready until it ``has_loaded``."""

    def __init__(self, slow: str) -> None:
        self._slow = slow
        self.has_loaded = False

    async def start(self, _name: str) -> Running:
        """Start one."""
        return Running()

    async def is_ready(self, name: str) -> bool:
        """Return whether it answers."""
        return name != self._slow or self.has_loaded

    async def is_alive(self, _name: str, *, limit_seconds: float) -> bool:  # as LocalProcesses
        """Return that it answers."""
        return True


async def test_a_base_that_is_ready_does_not_wait_for_a_slower_one() -> None:
    processes = Processes("loader-large")
    supervisor = Supervisor(PARTS, processes, clock=SystemClock(), rng=random.Random(0))  # type: ignore[arg-type]  # in memory
    running = asyncio.create_task(supervisor.run())
    bases = [("gateway", "loader-large"), ("gateway", "loader-tiny")]
    async with asyncio.timeout(20):
        await supervisor.any_ready(bases)
        every = asyncio.create_task(supervisor.all_ready())
        await asyncio.sleep(0.2)
        assert not every.done()
        processes.has_loaded = True
        await every
        supervisor.stop()
        await running
