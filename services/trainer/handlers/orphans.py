"""Remove blobs below `training/` that a crash left without a row.

A key is removed when two scans in a row find no row that names it: a blob stored now has its row long before
the second. Only keys of policies with a session here are checked.
"""

import logging
from collections.abc import Sequence

from mint_common.errors import Unavailable
from services.trainer.core.operations import STATE_PREFIX, StateKey, read_state_key
from services.trainer.handlers.lease_term import LeaseTerm

_log = logging.getLogger(__name__)

WALK_SECONDS = 3600.0
_TOGETHER = 500
_PAUSE_SECONDS = 0.1
_MAX_SEEN = 100_000


class Orphans:
    """Findings of the previous scan."""

    def __init__(self, term: LeaseTerm) -> None:
        self._term = term
        self._seen: set[str] = set()

    async def walk(self) -> int:
        """Check every key; return the number of removed ones. Raises Unavailable."""
        found: set[str] = set()
        removed = 0
        some: list[StateKey] = []
        async for key in self._term.blobs.list(STATE_PREFIX):
            if (read := read_state_key(key)) is not None:
                some.append(read)
            if len(some) == _TOGETHER:
                removed += await self._look(some, found)
                some = []
        removed += await self._look(some, found)
        self._seen = found
        return removed

    async def _look(self, keys: Sequence[StateKey], found: set[str]) -> int:
        orphans = await self._term.store.orphans(keys)
        old = [key for key in orphans if key in self._seen]
        for key in old:
            await self._term.blobs.delete(key)
        found.update(orphans[: max(0, _MAX_SEEN - len(found))])
        await self._term.clock.sleep(_PAUSE_SECONDS)
        return len(old)


async def collect_orphans(term: LeaseTerm) -> None:
    """Remove blobs that no row names, now and then, until cancelled."""
    orphans = Orphans(term)
    while True:
        await term.clock.sleep(WALK_SECONDS)
        try:
            removed = await orphans.walk()
        except Unavailable as error:
            _log.warning("orphans not collected", extra={"problem": str(error)})
        else:
            _log.info("orphans collected", extra={"removed": removed})
