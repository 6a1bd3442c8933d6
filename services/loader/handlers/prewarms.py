"""Loads ahead of need: tenants in turn, only the newest revision of each name.

A prewarm is a hint: a request for an adapter that was not prewarmed loads it. So nothing here outlives the
process, waiting prewarms are bounded, and a failed load is retried a bounded number of times.
"""

import asyncio
import logging
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

from mint_common.claims import RevisionRef
from mint_common.errors import MintError, trace_of
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from mint_common.telemetry.tracing import extracted, inject
from mint_common.tenant_budget import TenantBudget
from mint_common.waiting import wait_for_event
from services.loader.core.cold_queue import Priority
from services.loader.handlers.tiers import Tiers

_log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Maximum waiting prewarms of a tenant; the oldest are dropped."""
MAX_TRIES = 20
FIRST_RETRY_SECONDS = 0.5
MAX_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prewarm:
    """A revision to load for a tenant. Of those of one ``name`` the one with the highest ``order`` counts."""

    revision: RevisionRef
    tenant_id: TenantId
    name: Hashable
    order: int
    cause: str
    priority: Priority
    tries: int = 0
    due_at: float = 0.0
    trace: Mapping[str, str] = field(default_factory=lambda: inject({}), compare=False)
    """Headers of the trace that asked for it."""


class Prewarms:
    """Loads what waits, ``at_once`` at a time, of which a tenant leaves a quarter, and one, to others."""

    def __init__(self, tiers: Tiers, clock: Clock, *, at_once: int = 8) -> None:
        self._tiers = tiers
        self._clock = clock
        self._at_once = at_once
        self._waiting: dict[TenantId, dict[Hashable, Prewarm]] = {}
        self._running = TenantBudget(limit=max(1, at_once - max(1, at_once // 4)))
        self._wake = asyncio.Event()

    def put(self, prewarm: Prewarm) -> None:
        """Let a revision wait for its turn, instead of an older one of its name."""
        own = self._waiting.setdefault(prewarm.tenant_id, {})
        before = own.get(prewarm.name)
        if before is not None and before.order > prewarm.order:
            return
        own.pop(prewarm.name, None)
        own[prewarm.name] = prewarm
        if len(own) > MAX_WAITING:
            del own[next(iter(own))]
        self._wake.set()

    async def run(self) -> None:
        """Load until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_once):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            prewarm = self._take()
            if prewarm is None:
                self._wake.clear()
                await wait_for_event(self._wake, clock=self._clock, seconds=self._pause())
                continue
            with self._running.counted(prewarm.tenant_id):
                await self._load(prewarm)
            self._wake.set()

    def _take(self) -> Prewarm | None:
        """Return the next that is due: of the tenant with the fewest at work, in order of coming."""
        now = self._clock.monotonic()
        for tenant_id in sorted(self._waiting, key=self._running.of):
            own = self._waiting[tenant_id]
            name = next((name for name, each in own.items() if each.due_at <= now), None)
            if name is None or not self._running.fits(tenant_id):
                continue
            prewarm = own.pop(name)
            del self._waiting[tenant_id]
            if own:
                self._waiting[tenant_id] = own  # behind the others
            return prewarm
        return None

    def _pause(self) -> float:
        """Return the time until something is due; the end of a tenant's delay wakes the waiter."""
        now = self._clock.monotonic()
        later = [each.due_at - now for own in self._waiting.values() for each in own.values()]
        return min((seconds for seconds in later if seconds > 0), default=MAX_RETRY_SECONDS)

    async def _load(self, prewarm: Prewarm) -> None:
        revision = prewarm.revision
        try:
            with extracted(prewarm.trace):
                await self._tiers.prewarm(
                    revision, tenant_id=prewarm.tenant_id, cause=prewarm.cause, priority=prewarm.priority
                )
        except MintError as error:
            if error.retryable and prewarm.tries + 1 < MAX_TRIES:
                self._again(prewarm)
            else:  # adapter.failed has said why
                _log.warning("adapter refused", extra={"digest": revision.digest, "code": error.code})
        except Exception as error:  # noqa: BLE001  (a hint that fails ends no other)
            _log.error("prewarm failed", extra={"digest": revision.digest, "error": trace_of(error)})

    def _again(self, prewarm: Prewarm) -> None:
        if prewarm.name in self._waiting.get(prewarm.tenant_id, ()):
            return  # a newer one came
        seconds = min(FIRST_RETRY_SECONDS * 2.0**prewarm.tries, MAX_RETRY_SECONDS)
        due_at = self._clock.monotonic() + seconds
        self.put(replace(prewarm, tries=prewarm.tries + 1, due_at=due_at))
