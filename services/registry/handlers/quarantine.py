"""Revisions that misbehaved on an engine: out of use in whichever tenant, as equal bytes do equally.

Invariant: only an engine's own word quarantines, and only the digest that the engine ran.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mint_common.events import AdapterNonFinite, Event
from services.registry import metrics
from services.registry.ports import Custody

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineHandler:
    """Quarantines revisions."""

    custody: Custody

    async def on_adapter_non_finite(self, event: AdapterNonFinite) -> Sequence[Event]:
        """Take out of use what computed numbers that are not finite; each owner is told."""
        found = await self.custody.quarantine(event.digest, "non_finite_output", cause=event.id)
        metrics.QUARANTINES.inc(len(found))
        for held in found:
            facts = {"policy_id": held.policy_id, "number": held.number, "digest": held.digest}
            _log.warning("revision quarantined", extra={**facts, "engine_id": event.engine_id})
        return ()
