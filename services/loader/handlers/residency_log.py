"""Residency changes as events, numbered in order within one run of the engine."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mint_common.errors import MintError
from mint_common.events import AdapterEvicted, AdapterFailed, AdapterLoaded, AdapterNonFinite, Event
from mint_common.generation import AdapterChange, ChangeKind, EvictionReason
from mint_common.ids import BaseName, Digest, EngineId, TenantId
from mint_common.runtime.clock import Clock
from services.loader import metrics
from services.loader.adapters.announcements import BusAnnouncements
from services.loader.core.change_history import ChangeHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineIdentity:
    """The reporting engine; ``epoch`` is new at every start."""

    engine_id: EngineId
    epoch: str
    base: BaseName


class ResidencyLog:
    """Announces changes of adapters; ``history`` has each tenant's latest ones."""

    def __init__(self, identity: EngineIdentity, announcements: BusAnnouncements, clock: Clock) -> None:
        self._identity = identity
        self._announcements = announcements
        self._clock = clock
        self.history = ChangeHistory()
        self._sequence = itertools.count(1)

    def loaded(
        self, digest: Digest, *, tenant_id: TenantId, cause: str, size_bytes: int, load_seconds: float
    ) -> None:
        """Say that an adapter is in host memory: from now on a request for it starts at once."""
        sizes = {"size_bytes": size_bytes, "load_seconds": load_seconds}
        self._note(tenant_id, digest, "loaded", **sizes)
        self._announce(AdapterLoaded, digest, tenant_id, cause, tier="host", **sizes)

    def evicted(self, digest: Digest, *, tenant_id: TenantId, cause: str, reason: EvictionReason) -> None:
        """Say that an adapter has left."""
        metrics.EVICTIONS.inc()
        self._note(tenant_id, digest, "evicted", reason=reason)
        self._announce(AdapterEvicted, digest, tenant_id, cause, reason=reason)

    def non_finite(self, digest: Digest, *, tenant_id: TenantId, cause: str) -> None:
        """Say that an adapter computed numbers that are not finite, and is refused."""
        self._note(tenant_id, digest, "non_finite")
        self._announce(AdapterNonFinite, digest, tenant_id, cause)

    def failed(self, digest: Digest, error: MintError, *, tenant_id: TenantId, cause: str) -> None:
        """Say that an adapter can't be loaded, and that trying again would not help."""
        metrics.FAILURES.inc()
        self._note(tenant_id, digest, "failed", problem=str(error))
        self._announce(AdapterFailed, digest, tenant_id, cause, code=error.code, reason=str(error))

    def _note(self, tenant_id: TenantId, digest: Digest, change: ChangeKind, **told: Any) -> None:
        self.history.note(
            tenant_id, AdapterChange(digest=digest, change=change, at=self._clock.now(), **told)
        )

    def _announce(
        self,
        event_type: Callable[..., Event],
        digest: Digest,
        tenant_id: TenantId,
        cause: str,
        **told: object,
    ) -> None:
        event = event_type(
            tenant_id=tenant_id,
            base=self._identity.base,
            engine_id=self._identity.engine_id,
            epoch=self._identity.epoch,
            sequence=next(self._sequence),
            digest=digest,
            **told,
        )
        self._announcements.announce(event, cause=cause)
