"""The working set: loaded again at the start, saved in the background.

Invariant: nothing is saved before all adapters of an earlier run have been tried, so that a crash during the
reload loses none of them. No request ever waits for the store.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace

from mint_common.errors import MintError
from mint_common.ids import Digest, TenantId
from mint_common.runtime.clock import Clock
from services.loader.adapters.working_set_postgres import PostgresWorkingSet
from services.loader.core.working_set import WorkingSetEntry, hottest_first
from services.loader.handlers.tiers import Tiers

_log = logging.getLogger(__name__)
_CAUSE = "restore"
KEEP_SECONDS = 5.0
"""Interval at which the working set is written if it has changed."""


class WorkingSetSaver:
    """Restores the working set, then saves it."""

    def __init__(
        self,
        *,
        tiers: Tiers,
        store: PostgresWorkingSet,
        clock: Clock,
        most: int,
        at_once: int,
    ) -> None:
        self._tiers = tiers
        self._store = store
        self._clock = clock
        self._most = most
        self._turns = asyncio.Semaphore(at_once)
        self._earlier_uses: dict[tuple[Digest, TenantId], int] = {}
        self._saved: Sequence[WorkingSetEntry] = ()

    async def run(self) -> None:
        """Restore, then save until cancelled."""
        await self.restore()
        while True:
            await self._clock.sleep(KEEP_SECONDS)
            await self.keep()

    async def restore(self) -> None:
        """Load the adapters of an earlier run, the hottest first; skip those that can no longer be loaded."""
        while True:
            try:
                kept = await self._store.load()
            except MintError as error:
                if not error.retryable:
                    raise
                _log.warning("working set not read yet", extra={"problem": str(error)})
                await self._clock.sleep(KEEP_SECONDS)
            else:
                break
        async with asyncio.TaskGroup() as group:
            for each in hottest_first(kept, now=self._clock.now(), most=self._most):
                await self._turns.acquire()
                group.create_task(self._restore(each))
        _log.info("working set restored", extra={"adapters": len(self._earlier_uses)})

    async def keep(self) -> None:
        """Write the working set if it has changed."""
        kept = [self._with_earlier_uses(each) for each in self._tiers.working_set()]
        if kept == self._saved:
            return
        keys = [(each.revision.digest, each.tenant_id) for each in kept]
        self._earlier_uses = {key: self._earlier_uses[key] for key in keys if key in self._earlier_uses}
        try:
            await self._store.save(kept)
            self._saved = kept
        except MintError as error:
            if not error.retryable:
                raise
            _log.warning("working set not saved", extra={"problem": str(error)})

    async def _restore(self, each: WorkingSetEntry) -> None:
        digest = each.revision.digest
        try:
            await self._tiers.prewarm(each.revision, tenant_id=each.tenant_id, cause=_CAUSE)
            if each.pinned:
                self._tiers.pin(digest, tenant_id=each.tenant_id, pinned=True)
            self._earlier_uses[digest, each.tenant_id] = each.uses
        except Exception as error:  # noqa: BLE001  # the load has told what is unexpected; others are restored
            code = error.code if isinstance(error, MintError) else MintError.code
            _log.warning("adapter not restored", extra={"digest": digest, "code": code})
        finally:
            self._turns.release()

    def _with_earlier_uses(self, each: WorkingSetEntry) -> WorkingSetEntry:
        earlier = self._earlier_uses.get((each.revision.digest, each.tenant_id), 0)
        return replace(each, uses=each.uses + earlier)
