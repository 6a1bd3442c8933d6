"""Quarantine of revisions whose output was not finite, in every tenant that has the same bytes.

Invariant: only an engine's report quarantines, and only the digest that the engine ran.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.events import AdapterNonFinite, Event
from services.registry import metrics
from services.registry.adapters.blob_integrity_postgres import PostgresBlobIntegrity

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineHandler:
    """Quarantines revisions."""

    integrity: PostgresBlobIntegrity

    async def on_adapter_non_finite(self, event: AdapterNonFinite) -> Sequence[Event]:
        """Quarantine every revision of the digest; each owner gets an event."""
        found = await self.integrity.quarantine(event.digest, "non_finite_output", cause=event.id)
        metrics.QUARANTINES.inc(len(found))
        for revision in found:
            facts = {"policy_id": revision.policy_id, "number": revision.number, "digest": revision.digest}
            _log.warning("revision quarantined", extra={**facts, "engine_id": event.engine_id})
        return ()
