"""Owners of API keys: cached for a while, otherwise asked of the registry in turn.

Invariants: known keys never wait for unknown ones, and tenants take turns; checks of unknown keys are
limited, addresses take turns, and a refused key is checked once a second at most. While the registry does not
answer within a second, a recently verified key stays valid, except for routes that ask afresh.
"""

import asyncio
import math
from functools import partial
from typing import Protocol

from mint_common.authority import Authority, Caller
from mint_common.catalog import KeyOwner
from mint_common.errors import Unauthorized, Unavailable
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.tenant_budget import TenantBudget
from services.gateway.adapters.recent_answers import RecentAnswers
from services.gateway.core.callers import KeyMemory

CHECKS, TENANT_CHECKS = 64, 8
"""Maximum concurrent checks of known keys, and per tenant; the registry checks some thousand a second."""
UNKNOWN_CHECKS, ADDRESS_CHECKS = 16, 4
"""Maximum concurrent checks of unknown keys, and per address."""
WAITING_OF_ADDRESS = 256
"""Maximum unknown keys waiting per address, which may be a proxy: their checks take a quarter of a second."""
AWAY_SECONDS = 5.0
"""Time that optional calls avoid a registry that did not answer."""


class KeyOwners(Protocol):
    """Source of the owners of keys."""

    async def verify_key(self, key: str) -> KeyOwner:
        """Return the owner of a key. Raises Unauthorized, Unavailable."""
        ...


class KeyChecks:
    """Checks keys."""

    def __init__(self, owners: KeyOwners, memory: KeyMemory, clock: Clock) -> None:
        self._owners = owners
        self._memory = memory
        self._clock = clock
        self._known = FairGate(CHECKS, limit=TENANT_CHECKS)
        waiting = TenantBudget(what="the queue of unknown keys", limit=WAITING_OF_ADDRESS)
        self._unknown = FairGate(UNKNOWN_CHECKS, limit=ADDRESS_CHECKS, callers=waiting)
        self._asking: dict[str, asyncio.Task[Caller]] = {}
        self._answers = RecentAnswers[Caller]()
        self._away_at = -math.inf

    async def caller_of(self, key: str, *, address: str, afresh: bool = False) -> Caller:
        """Return the caller of a key; with ``afresh`` the cache is not used.

        Raises Unauthorized, Unavailable; Overloaded when an address sends too many unknown keys.
        """
        known = self._remembered(key, afresh=afresh)
        if known is not None:
            return known
        if afresh:
            return await self._ask_in_turn(key, address=address, afresh=True)
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask_in_turn(key, address=address, afresh=False))
            self._asking[key] = asking
            asking.add_done_callback(partial(self._asked, key))
        return await asyncio.shield(asking)  # others wait for it too

    async def _ask_in_turn(self, key: str, *, address: str, afresh: bool) -> Caller:
        last = self._memory.last(key)
        async with self._unknown.turn(address) if last is None else self._known.turn(last.tenant_id):
            return self._remembered(key, afresh=afresh) or await self._ask(key, afresh=afresh)

    def _asked(self, key: str, asking: asyncio.Task[Caller]) -> None:
        del self._asking[key]
        if not asking.cancelled():
            asking.exception()  # raised where a caller still waits for it

    def _remembered(self, key: str, *, afresh: bool) -> Caller | None:
        now = self._clock.monotonic()
        self._memory.check_refused(key, now=now)
        if afresh:
            return None
        is_away = now - self._away_at < AWAY_SECONDS
        return self._memory.get(key, now=now) or (self._memory.recent(key, now=now) if is_away else None)

    async def _ask(self, key: str, *, afresh: bool) -> Caller:
        if afresh:
            return await self._verify(key)
        return await self._answers.fresh_or_recent(
            key,
            lambda: self._verify(key),
            lambda: self._memory.recent(key, now=self._clock.monotonic()),
        )

    async def _verify(self, key: str) -> Caller:
        try:
            owner = await self._owners.verify_key(key)
        except Unauthorized as error:
            self._memory.refuse(key, error, now=self._clock.monotonic())
            raise
        except Unavailable:
            self._away_at = self._clock.monotonic()
            raise
        self._away_at = -math.inf
        caller = Caller(authority=Authority.of(owner), name=owner.name)
        self._memory.put(key, caller, now=self._clock.monotonic())
        return caller
