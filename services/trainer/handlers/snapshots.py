"""Copy a policy's state to the blob store; a replay starts after the operations that it covers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.trainer.core.operations import Fenced, NotResident
from services.trainer.core.parking import retry_seconds
from services.trainer.handlers.committer import Committer
from services.trainer.handlers.executor import Executor
from services.trainer.handlers.lease_term import LeaseTerm, begin_task

_log = logging.getLogger(__name__)


class Snapshots:
    """The snapshots of one policy, one at a time. ``on_done`` is called when one has ended, well or not."""

    def __init__(
        self,
        term: LeaseTerm,
        committer: Committer,
        executor: Executor,
        group: asyncio.TaskGroup,
        *,
        on_done: Callable[[], None],
    ) -> None:
        self.changed = committer.session.position
        """The position after the last operation that may have changed the state."""
        self.is_copying = False
        self.is_urgent = False
        """Whether the next one is due at once."""
        self._term = term
        self._committer = committer
        self._executor = executor
        self._group = group
        self._on_done = on_done
        self._begun_at = term.clock.monotonic()
        self._failures = 0

    @property
    def is_covering(self) -> bool:
        """Return whether the last snapshot has all that changed the state."""
        return self.changed <= self._committer.covered

    @property
    def is_stored(self) -> bool:
        """Return whether what is in memory is stored, or nothing is."""
        return self.is_covering or not self._term.policies.has(self._committer.session.policy_id)

    @property
    def due(self) -> float | None:
        """Return when the next one is due; None while nothing needs one, or the state is not in memory."""
        is_resident = self._term.policies.has(self._committer.session.policy_id)
        if self.is_copying or self.is_covering or not is_resident:
            return None
        wait = retry_seconds(self._failures) if self._failures else 0.0
        interval = 0.0 if self.is_urgent else self._term.settings.snapshot_seconds
        return self._begun_at + max(interval, wait)

    def begin(self, position: int) -> None:
        """Begin a snapshot of the state after a position; training continues meanwhile."""
        self.is_copying = True
        self._begun_at = self._term.clock.monotonic()
        # Queued now: what is begun behind it is not in it.
        copy = self._executor.copy(with_gradient=True)
        begin_task(self._group, self._store(position, copy))

    async def _store(self, position: int, copy: Awaitable[bytes]) -> None:
        (trouble,) = await asyncio.gather(self._stored(position, copy), return_exceptions=True)
        if isinstance(trouble, Fenced):
            raise trouble
        if trouble is None:
            self._failures = 0
        elif not isinstance(trouble, NotResident):
            self._failures += 1
            extra = {"policy_id": self._committer.session.policy_id, "failures": self._failures}
            _log.error("snapshot failed", extra=extra, exc_info=trouble)
        self.is_copying = False
        self._on_done()

    async def _stored(self, position: int, copy: Awaitable[bytes]) -> None:
        state = await copy
        await self._committer.settled(position)
        await self._committer.snapshot(position, state)
