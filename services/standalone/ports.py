"""What the supervisor needs of the world."""

from collections.abc import Mapping
from typing import Protocol

from services.standalone.core.lifecycle import PartStatus


class Process(Protocol):
    """One running process and everything that it started."""

    @property
    def pid(self) -> int:
        """Return its process id."""

    async def exited(self) -> int:
        """Wait for its end and return the exit code (negative: the signal). May be awaited many times."""

    async def end(self, *, limit_seconds: float) -> None:
        """Ask it to end, insist after the limit, and return once nothing of it is left. Idempotent."""


class Processes(Protocol):
    """Starts the parts of a stack by name."""

    async def start(self, name: str) -> Process:
        """Start a part. Its earlier process must have been ended. Raises Unavailable."""

    async def is_ready(self, name: str) -> bool:
        """Probe a part's readiness once; never raises for a part that is not there."""

    def log_tail(self, name: str) -> str:
        """Return the end of a part's log."""


class Observer(Protocol):
    """Is told of every change."""

    def __call__(self, statuses: Mapping[str, PartStatus]) -> None:
        """See the state of every part, after a change of one. Must return at once and not raise."""
