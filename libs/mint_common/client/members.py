"""The fleet's two sides: a member that announces itself, and those that follow who is there."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from fastapi import FastAPI

from mint_common.bus.following import follow_bus
from mint_common.bus.port import Bus
from mint_common.client.directory import EngineDirectory
from mint_common.client.registry import BaseRegistration, RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import MintError
from mint_common.events import MemberChanged
from mint_common.events.subjects import subjects_of
from mint_common.ids import BaseName, new_id
from mint_common.members import BEAT_SECONDS, Beat, Member, MemberKind, MemberReplaced, MemberState
from mint_common.runtime.clock import Clock
from mint_common.waiting import raise_if_cancelled, wait_for_event

LOOK_SECONDS = 0.1
"""Interval at which a member looks whether its state has changed."""
FOLLOW_SECONDS = 1.0
TOGETHER_SECONDS = 0.1
"""Least time between two reads: many members may change at once."""
LEAVE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Announcement:
    """Tells the registry every `BEAT_SECONDS` that a member is there, and at once when its state changes."""

    def __init__(
        self, registry: RegistryClient, beat: Beat, *, state: Callable[[], MemberState], clock: Clock
    ) -> None:
        self._registry = registry
        self._beat = beat
        self._state = state
        self._clock = clock
        self._is_heard = True

    async def run(self) -> None:
        """Announce until cancelled, then leave. Raises MemberReplaced when another process has its name."""
        try:
            while True:
                state = self._state()
                await self._say(replace(self._beat, state=state))
                next_at = self._clock.monotonic() + BEAT_SECONDS
                while self._clock.monotonic() < next_at and self._state() == state:
                    await self._clock.sleep(LOOK_SECONDS)
        finally:
            await self._leave()

    async def _say(self, beat: Beat) -> None:
        try:
            await self._registry.beat(beat)
        except MemberReplaced:
            raise
        except MintError as error:  # also of a registry of an older version
            raise_if_cancelled()
            if self._is_heard:
                _log.info("not announced", extra={"problem": str(error)})
            self._is_heard = False
        else:
            self._is_heard = True

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._registry.leave(self._beat)
        except (MintError, TimeoutError) as error:
            _log.info("row not removed", extra={"problem": str(error)})


class MembersWatch:
    """Tells ``hear`` of the fleet's members: every `FOLLOW_SECONDS`, and when one has changed."""

    def __init__(
        self, registry: RegistryClient, hear: Callable[[Sequence[Member]], None], clock: Clock
    ) -> None:
        self._registry = registry
        self._hear = hear
        self._clock = clock
        self._changed = asyncio.Event()

    def work(self, bus: Bus) -> tuple[Callable[[], Awaitable[None]], ...]:
        """Return what a service runs in its background."""
        return self.run, partial(self.follow, bus)

    async def follow(self, bus: Bus) -> None:
        """Read the members at once when one has changed, until cancelled."""
        await follow_bus(bus, (subjects_of(MemberChanged),), lambda _: self._changed.set())

    async def run(self) -> None:
        """Follow until cancelled. While the registry is away, the members known last stay."""
        while True:
            try:
                members = await self._registry.members()
            except MintError as error:
                raise_if_cancelled()
                _log.debug("members not known", extra={"problem": str(error)})
            else:
                self._hear(members)
            await self._clock.sleep(TOGETHER_SECONDS)
            await wait_for_event(self._changed, clock=self._clock, seconds=FOLLOW_SECONDS - TOGETHER_SECONDS)
            self._changed.clear()


class FleetWatch(MembersWatch):
    """Keeps the directories of engines and trainers to the members that the registry knows."""

    def __init__(
        self,
        registry: RegistryClient,
        engines: EngineDirectory,
        trainers: TrainerDirectory,
        clock: Clock,
        *others: Callable[[Sequence[Member]], None],
    ) -> None:
        """``others`` hear of all members."""

        def hear(members: Sequence[Member]) -> None:
            engines.follow_members([each for each in members if each.kind == "loader"])
            trainers.follow_members([each for each in members if each.kind == "trainer"])
            for other in others:
                other(members)

        super().__init__(registry, hear, clock)


def first_beat(
    kind: MemberKind, *, member_id: str, url: str, base: BaseName, epoch: str | None = None
) -> Beat:
    """Return the beat of a process that starts now."""
    return Beat(
        kind=kind,
        member_id=member_id,
        epoch=epoch or new_id("epoch"),
        started_at=time.time(),
        url=url,
        base=base,
        state="starting",
    )


def member_state(http: FastAPI, registration: BaseRegistration) -> MemberState:
    """Return the state of a service's process."""
    if http.state.in_hand.is_draining:
        return "draining"
    return "ready" if registration.is_done else "starting"
