"""Events that make the loader load ahead of need, under the cold queue, what it is a home of.

No handler waits for a load: however many prewarms wait, a restored revision runs again at once.
"""

from collections.abc import Hashable, Sequence

from mint_common.claims import RevisionRef
from mint_common.events import AdapterWanted, AliasMoved, RevisionPublished, RevisionRestored
from mint_common.events.event import Event
from services.loader.core.cold_queue import Priority
from services.loader.handlers.homes import Homes
from services.loader.handlers.prewarms import Prewarm, Prewarms
from services.loader.handlers.quarantining import Quarantined

_PRIORITIES = {
    "request": Priority.REQUEST,
    "prewarm": Priority.PREWARM,
    "prefetch": Priority.PREFETCH,
}


class Handlers:
    """Prewarms published, promoted and requested revisions."""

    def __init__(self, prewarms: Prewarms, quarantined: Quarantined, homes: Homes) -> None:
        self._prewarms = prewarms
        self._homes = homes
        self._quarantined = quarantined

    async def on_revision_published(self, event: RevisionPublished) -> Sequence[Event]:
        """Load a policy's newest revision, which will be sampled next.

        A revision whose equals had output that was not finite may run once more, so that the registry learns
        of it too.
        """
        self._quarantined.lift(event.revision.digest)
        self._put(event, event.revision, name=event.policy_id, order=event.revision.number)
        return ()

    async def on_revision_restored(self, event: RevisionRestored) -> Sequence[Event]:
        """Allow a revision again that its owner restored."""
        self._quarantined.lift(event.digest)
        return ()

    async def on_alias_moved(self, event: AliasMoved) -> Sequence[Event]:
        """The traffic of an alias goes to this revision from now on."""
        self._put(event, event.revision, name=(event.policy_id, event.alias), order=event.sequence)
        return ()

    async def on_adapter_wanted(self, event: AdapterWanted) -> Sequence[Event]:
        """Load a revision that was requested in advance."""
        priority = _PRIORITIES[event.priority]
        self._put(event, event.revision, name=event.revision.digest, order=0, priority=priority)
        return ()

    def _put(
        self,
        event: Event,
        revision: RevisionRef,
        *,
        name: Hashable,
        order: int,
        priority: Priority = Priority.PREWARM,
    ) -> None:
        if not self._homes.is_home(revision.digest, name=name):
            return
        self._prewarms.put(
            Prewarm(
                revision=revision,
                tenant_id=event.tenant_id,
                name=name,
                order=order,
                cause=event.id,
                priority=priority,
            )
        )
