"""Resolution of model names: asked once, then cached until an event reports a change."""

import asyncio
import logging
from collections import deque
from typing import Protocol

from mint_common.bus.following import follow_bus
from mint_common.bus.port import Bus, Message
from mint_common.catalog import Resolution
from mint_common.errors import EventInvalid, MintError
from mint_common.events import (
    AdapterWanted,
    AliasMoved,
    AliasRemoved,
    PolicyRemoved,
    RevisionHealed,
    RevisionLost,
    RevisionPublished,
    RevisionQuarantined,
    RevisionRestored,
    RevisionRetired,
)
from mint_common.events.codec import decode
from mint_common.events.subjects import subjects_of
from mint_common.ids import TenantId, new_id
from mint_common.runtime.clock import Clock
from mint_common.runtime.dispatch import publish_event
from services.gateway import metrics
from services.gateway.adapters.recent_answers import RecentAnswers
from services.gateway.core.resolutions import Key, ResolutionCache

_CHANGES = (AliasMoved, AliasRemoved, RevisionPublished, RevisionRestored, RevisionHealed)
_LOSSES = (RevisionRetired, RevisionQuarantined, RevisionLost)
NEWS = tuple(subjects_of(event) for event in (*_CHANGES, *_LOSSES, PolicyRemoved))
MAX_WANTED = 1024
"""Maximum waiting load requests; the oldest beyond it is dropped, since alias.moved loads its revision
too."""

_log = logging.getLogger(__name__)


class Names(Protocol):
    """What names mean now."""

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what a name means. Raises NotFound, Unavailable."""
        ...


class CachedResolver:
    """Resolves model names, once per request.

    An answer is used until an event reports a change, and at most `resolution_lease_seconds`, or a minute
    while the registry does not answer within a second. After a move the former revision may answer for
    `switch_seconds`, while it is ready and the new one is not.
    """

    def __init__(self, names: Names, cache: ResolutionCache, clock: Clock) -> None:
        self._names = names
        self._cache = cache
        self._clock = clock
        self._answers = RecentAnswers[Resolution]()
        self._wanted: deque[AdapterWanted] = deque(maxlen=MAX_WANTED)
        self._asked = asyncio.Event()

    async def resolve(self, tenant_id: TenantId, model: str) -> Resolution:
        """Return what answers in a name. Raises NotFound, Unavailable; never falls back to the base."""
        key, asked_at = (tenant_id, model), self._clock.monotonic()
        known = self._cache.get(key, now=asked_at)
        if known is not None:
            self._note_behind(key)
            return known
        return await self._answers.fresh_or_recent(
            key,
            lambda: self._ask(key, asked_at=asked_at),
            lambda: self._cache.recent(key, now=self._clock.monotonic()),
        )

    async def _ask(self, key: Key, *, asked_at: float) -> Resolution:
        tenant_id, model = key
        ticket = self._cache.ask()
        try:
            meant = await self._names.resolve(tenant_id, model)
        except MintError as error:
            if not error.retryable:
                self._cache.drop(key)  # the name is gone: its former revision must not answer
            raise
        found = self._cache.put(key, meant, ticket=ticket, asked_at=asked_at, now=self._clock.monotonic())
        if found.wanted is not None:
            self._want(tenant_id, found.wanted)
        self._note_behind(key)
        return found.answer

    def _note_behind(self, key: Key) -> None:
        if behind := self._cache.behind(key):
            metrics.REVISIONS_BEHIND.observe(behind)

    def known(self, tenant_id: TenantId, model: str) -> Resolution | None:
        """Return what answered last, if it is cached; it may be stale."""
        return self._cache.peek((tenant_id, model))

    def forget(self, tenant_id: TenantId, policy: str) -> None:
        """Mark a policy's names as stale: the caller, who gives its id or name, has just changed it."""
        self._cache.forget(self._cache.policy_id(tenant_id, policy), at=self._clock.monotonic())

    def withdraw(self, tenant_id: TenantId, policy: str) -> None:
        """Let no former revision answer either: the caller has just retired or restored one."""
        self._cache.withdraw(self._cache.policy_id(tenant_id, policy))

    async def follow(self, bus: Bus) -> None:
        """Mark as stale what events say has changed, until cancelled; a gap in them clears the cache."""
        await follow_bus(bus, NEWS, self._learn, on_gap=self._cache.clear)

    async def ask_for_loads(self, bus: Bus) -> None:
        """Request loads of revisions whose names still answer with the former one, until cancelled."""
        while True:
            self._asked.clear()
            while self._wanted:
                event = self._wanted.popleft()
                try:
                    await publish_event(bus, event, cause=event.request_id, now=self._clock.now())
                except MintError as error:
                    # Not tried again: alias.moved asks for the same, and the name switches by itself.
                    _log.warning("a load was not asked for", extra={"problem": str(error)})
            await self._asked.wait()

    def _learn(self, message: Message) -> None:
        try:
            envelope, event = decode(message.data)
        except EventInvalid:
            self._cache.clear()  # an event of an unknown version may concern any name
            return
        late_seconds = max(0.0, self._clock.now() - envelope.time)
        at = self._clock.monotonic() - late_seconds
        if isinstance(event, _CHANGES):
            self._cache.forget(event.policy_id, at=at)
        elif isinstance(event, _LOSSES):
            self._cache.withdraw(event.policy_id, event.digest)
        elif isinstance(event, PolicyRemoved):
            self._cache.withdraw(event.policy_id)

    def _want(self, tenant_id: TenantId, wanted: Resolution) -> None:
        assert wanted.revision is not None
        event = AdapterWanted(
            tenant_id=tenant_id,
            base=wanted.base,
            request_id=new_id("switch"),
            revision=wanted.revision,
            priority="prewarm",
        )
        self._wanted.append(event)
        self._asked.set()
