"""Exports that wait to become revisions: the registry decides and publishes its decision on the bus.

Invariants: a missed decision is found by asking the registry, or sent again; no export waits forever for a
refusal that is not repeated; memory is bounded.
"""

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mint_common.bus.following import follow_bus
from mint_common.bus.port import Bus, Message
from mint_common.claims import RevisionRef
from mint_common.client.registry import RegistryClient
from mint_common.errors import EventInvalid, MintError, NotFound, Unavailable
from mint_common.events import RevisionPublished, RevisionRejected
from mint_common.events.codec import decode
from mint_common.events.subjects import subjects_of
from mint_common.ids import PolicyId
from mint_common.runtime.clock import Clock
from mint_common.training import Exported
from mint_common.waiting import wait_for_event
from services.gateway.core.tinker.records import TrainingRun

NEWS = (subjects_of(RevisionPublished), subjects_of(RevisionRejected))
KEPT = 10_000
"""Maximum remembered decisions."""
FIRST_LOOK_SECONDS, LOOK_SECONDS = 0.25, 2.0
"""Time to wait for the bus before asking the registry: the first time, and each further time."""
LOST_SECONDS = 120.0
"""Time without news after which an export counts as refused: its refusal was missed."""

Decision = RevisionRef | RevisionRejected
_Key = tuple[PolicyId, str]


class ExportLost(Exception):
    """The registry has not decided about an export for too long."""


class ExportDecisions:
    """What the registry decided about exports of training runs."""

    def __init__(self, registry: RegistryClient, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._decided: OrderedDict[_Key, Decision] = OrderedDict()
        self._waiting: dict[_Key, list[asyncio.Event]] = {}
        self._asked_at: OrderedDict[_Key, float] = OrderedDict()

    async def of(
        self,
        run: TrainingRun,
        export: Exported,
        *,
        wait_seconds: float,
        remind: Callable[[], Awaitable[None]],
    ) -> Decision | None:
        """Return the decision about an export, or None if there is none in time.

        ``remind`` makes the registry publish its decision again: a refusal is not stored anywhere.
        """
        key = (run.policy_id, export.export_id)
        until = self._clock.monotonic() + wait_seconds
        look, is_reminded = FIRST_LOOK_SECONDS, False
        event = asyncio.Event()
        self._waiting.setdefault(key, []).append(event)
        try:
            while key not in self._decided:
                left = until - self._clock.monotonic()
                if left <= 0:
                    return self._undecided(key, export)
                if await wait_for_event(event, clock=self._clock, seconds=min(left, look)):
                    break
                await self._look(key, run, export)
                if look == LOOK_SECONDS and not is_reminded and key not in self._decided:
                    is_reminded = True
                    with contextlib.suppress(MintError):
                        await remind()
                look = LOOK_SECONDS
            return self._decided[key]
        finally:
            self._waiting[key].remove(event)
            if not self._waiting[key]:
                del self._waiting[key]

    async def follow(self, bus: Bus) -> None:
        """Listen until cancelled."""
        await follow_bus(bus, NEWS, self._learn)

    def _undecided(self, key: _Key, export: Exported) -> Decision | None:
        now = self._clock.monotonic()
        since = self._asked_at.setdefault(key, now)
        while len(self._asked_at) > KEPT:
            self._asked_at.popitem(last=False)
        if now - since < LOST_SECONDS:
            return None
        raise ExportLost(export.export_id)

    async def _look(self, key: _Key, run: TrainingRun, export: Exported) -> None:
        try:
            revision = await self._registry.get_revision(run.tenant_id, run.policy_id, export.digest)
        except (NotFound, Unavailable):
            return
        self._decide(key, revision.ref)

    def _learn(self, message: Message) -> None:
        try:
            event = decode(message.data)[1]
        except EventInvalid:
            return  # of a version that this process does not know; the registry is asked later
        if isinstance(event, RevisionPublished):
            self._decide((event.policy_id, event.export_id), event.revision)
        elif isinstance(event, RevisionRejected):
            self._decide((event.policy_id, event.export_id), event)

    def _decide(self, key: _Key, decision: Decision) -> None:
        self._decided[key] = decision
        while len(self._decided) > KEPT:
            self._decided.popitem(last=False)
        for event in self._waiting.get(key, ()):
            event.set()
