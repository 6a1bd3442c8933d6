"""Group commit of results: operations executed while a transaction runs share the next one.

Results are collected from the drivers when they are committed: nothing waits in between.
Invariants: a policy's results are committed in the order of their execution, in one transaction at a time;
a result with its own transaction delays no other policy's results. When the store fails, the outcome of the
commit is unknown, and the term ends.
"""

import asyncio
from collections.abc import Sequence

from services.trainer.core.operations import FinishedOperation
from services.trainer.handlers.committer import Committer
from services.trainer.handlers.lease_term import LeaseTerm, begin_task

_MAX_TOGETHER = 256
"""Maximum results that share a transaction."""


class CommitQueue:
    """Commits the results of a term's policies; tasks of single transactions belong to ``group``."""

    def __init__(self, term: LeaseTerm, group: asyncio.TaskGroup) -> None:
        self._term = term
        self._group = group
        self._waiting: dict[Committer, None] = {}
        self._alone: set[Committer] = set()
        self._news = asyncio.Event()

    def put(self, committer: Committer) -> None:
        """Commit a policy's computed or executed operations, after those being committed."""
        self._waiting[committer] = None
        self._news.set()

    async def run(self) -> None:
        """Commit until cancelled. Raises the MintError of the store."""
        while True:
            await self._news.wait()
            self._news.clear()
            while ready := [one for one in self._waiting if one not in self._alone]:
                await self._commit(ready)

    async def _commit(self, ready: Sequence[Committer]) -> None:
        taken: list[tuple[Committer, list[FinishedOperation]]] = []
        room = _MAX_TOGETHER
        for committer in ready:
            if not room:
                break
            finished = committer.take_plain(room)
            room -= len(finished)
            if finished:
                taken.append((committer, finished))
            elif committer.is_waiting:
                self._alone.add(committer)
                begin_task(self._group, self._commit_next(committer))
            if not (finished and committer.is_waiting):
                del self._waiting[committer]
        if taken:
            await self._term.store.finish(self._term.holder, [one for _, part in taken for one in part])
        for committer, finished in taken:
            committer.tell(finished)

    async def _commit_next(self, committer: Committer) -> None:
        await committer.commit_next()
        self._alone.discard(committer)
        self.put(committer)
