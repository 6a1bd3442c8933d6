"""Events that make the loader load ahead of need, under the cold queue.

Each handler ends when the load has: an event is acked only when its adapter is ready or can never be. What
became of it is said by adapter.loaded and adapter.failed, not by these handlers' results.
"""

import logging
from collections.abc import Sequence

from mint_common.claims import RevisionRef
from mint_common.errors import MintError
from mint_common.events import AdapterWanted, AliasMoved, RevisionPublished, RevisionRestored
from mint_common.events.event import Event
from services.loader.core.cold_queue import Priority
from services.loader.handlers.quarantining import Quarantined
from services.loader.handlers.tiers import Tiers

_log = logging.getLogger(__name__)

_PRIORITIES = {
    "request": Priority.REQUEST,
    "prewarm": Priority.PREWARM,
    "prefetch": Priority.PREFETCH,
}


class Handlers:
    """Prewarms what was published, promoted or asked for."""

    def __init__(self, tiers: Tiers, quarantined: Quarantined) -> None:
        self._tiers = tiers
        self._quarantined = quarantined

    async def on_revision_published(self, event: RevisionPublished) -> Sequence[Event]:
        """A policy's newest revision will be sampled next.

        One whose equals had no finite output may run once more: that tells the registry of this one too.
        """
        self._quarantined.lift(event.revision.digest)
        await self._prewarm(event, event.revision, Priority.PREWARM)
        return ()

    async def on_revision_restored(self, event: RevisionRestored) -> Sequence[Event]:
        """Its owner wants it to run again."""
        self._quarantined.lift(event.digest)
        return ()

    async def on_alias_moved(self, event: AliasMoved) -> Sequence[Event]:
        """The traffic of an alias goes to this revision from now on."""
        await self._prewarm(event, event.revision, Priority.PREWARM)
        return ()

    async def on_adapter_wanted(self, event: AdapterWanted) -> Sequence[Event]:
        """Somebody asked for it in advance."""
        await self._prewarm(event, event.revision, _PRIORITIES[event.priority])
        return ()

    async def _prewarm(self, event: Event, revision: RevisionRef, priority: Priority) -> None:
        try:
            await self._tiers.prewarm(revision, tenant_id=event.tenant_id, cause=event.id, priority=priority)
        except MintError as error:
            if error.retryable:
                raise
            # adapter.failed has said so already; a dead letter would only say it again.
            _log.warning("adapter refused", extra={"digest": revision.digest, "code": error.code})
