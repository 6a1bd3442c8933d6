"""Names of models: asked of the registry once, then remembered until the bus tells of a change."""

import asyncio
import logging

from mint_common.bus.port import Bus, Message
from mint_common.catalog import Resolution
from mint_common.client.registry import RegistryClient
from mint_common.errors import EventInvalid, Unavailable
from mint_common.events import AliasMoved, RevisionHealed, RevisionLost, RevisionPublished, RevisionRetired
from mint_common.events.codec import decode
from mint_common.events.subjects import subjects_of
from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock
from services.gateway.core.resolutions import ResolutionCache

_CHANGES = (AliasMoved, RevisionPublished, RevisionRetired, RevisionLost, RevisionHealed)
NEWS = tuple(subjects_of(event) for event in _CHANGES)
AGAIN_SECONDS = 1.0

_log = logging.getLogger(__name__)


class CachedResolver:
    """What model names mean; see `services.gateway.ports.Resolver`."""

    def __init__(self, registry: RegistryClient, cache: ResolutionCache, clock: Clock) -> None:
        self._registry = registry
        self._cache = cache
        self._clock = clock

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what a model name means now, or meant at most a lease ago."""
        key, now = (tenant_id, model), self._clock.monotonic()
        known = self._cache.get(key, now=now)
        if known is not None:
            return known
        ticket = self._cache.ask()
        found = await self._registry.resolve(tenant_id, model)
        self._cache.put(key, found, ticket=ticket, now=now)
        return found

    def forget(self, tenant_id: TenantId, policy: str) -> None:
        """Ask anew what the names of a policy mean: its caller has just changed it through this gateway."""
        self._cache.forget_named(tenant_id, policy)

    async def follow(self, bus: Bus) -> None:
        """Forget until cancelled what changes. What was missed between two watches is forgotten with all."""
        while True:
            try:
                async with bus.watch(subjects=NEWS) as messages:
                    self._cache.clear()
                    async for message in messages:
                        self._learn(message)
            except Unavailable as error:
                _log.warning("resolutions are not watched", extra={"problem": str(error)})
            self._cache.clear()
            await asyncio.sleep(AGAIN_SECONDS)

    def _learn(self, message: Message) -> None:
        try:
            event = decode(message.data)[1]
        except EventInvalid:
            self._cache.clear()  # of a version that this process does not know: it may be about anything
            return
        if isinstance(event, _CHANGES):
            self._cache.forget(event.policy_id)
