"""The terms of this trainer in its base's pool, and what is done at whichever trainer holds a policy.

Invariants: a term ends for shared faults only, the database and the membership, and the next one begins with
what is committed; a trainer that stops lets its policies go whole, if another one can take them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from mint_common.client.trainer import TrainerClient
from mint_common.errors import MintError, Unavailable
from mint_common.ids import PolicyId
from mint_common.waiting import cancel_all, raise_if_cancelled, wait_for_event
from services.trainer import metrics
from services.trainer.adapters.trainer_pool_postgres import POLL_SECONDS, TrainerPool
from services.trainer.core.parking import retry_seconds
from services.trainer.core.pool import Holder, HolderAway, NotHeld
from services.trainer.handlers.attempts import forget_attempts
from services.trainer.handlers.drivers import Drivers
from services.trainer.handlers.lease_term import LeaseTerm, OperationParts
from services.trainer.handlers.orphans import collect_orphans
from services.trainer.handlers.pool_peers import PoolPeers

_log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_RENEW_SECONDS = 2.0
_SWEEP_SECONDS = 2.0
_SWEPT_TOGETHER = 500
_FORGET_SECONDS = 2.0
_LOOK_SECONDS = 0.2
TERM_SECONDS = 10.0
"""Time that a request waits for the term to begin, or for its policy's holder: its sender only sees a slower
answer."""
_ASK_SECONDS = 1.0
_DRAIN_SECONDS = 8.0
"""Time in which policies are let go whole; what is not is computed again by the trainer that takes it."""

T = TypeVar("T")


class Terms:
    """The terms of a trainer.

    ``is_broken`` says whether this process ends because its compute parts have died.
    """

    def __init__(
        self,
        parts: OperationParts,
        pool: TrainerPool,
        peers: PoolPeers,
        *,
        is_broken: Callable[[], bool] = lambda: False,
    ) -> None:
        self.current: Drivers | None = None
        """The drivers of the term, while there is one."""
        self.peers = peers
        self._is_broken = is_broken
        self._parts = parts
        self._pool = pool
        self._others = frozenset[int]()
        self._began = asyncio.Event()
        self._ended = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Return whether this trainer trains now."""
        return self._began.is_set()

    async def at_holder(
        self,
        policy_id: PolicyId,
        here: Callable[[Drivers], Awaitable[T]],
        there: Callable[[TrainerClient], Awaitable[T]],
        *,
        opens: bool = False,
        is_sent_on: bool = False,
    ) -> T:
        """Do something with a policy ``here`` if this trainer holds it then, else ``there``, at its holder.

        Both are repeatable. ``opens``: it may open the session; ``is_sent_on``: another trainer sent it here.
        """
        deadline = self._parts.clock.monotonic() + TERM_SECONDS
        while True:
            try:
                drivers = await self.drivers()
                holder = await drivers.held.place(policy_id, opens=opens, is_sent_on=is_sent_on)
                if holder is None:
                    return await here(drivers)
                if is_sent_on:
                    raise NotHeld(policy_id=policy_id)  # noqa: TRY301  # handled as that of the store
                return await self.peers.ask(holder, there)
            except (NotHeld, HolderAway):
                if is_sent_on or self._parts.clock.monotonic() > deadline:
                    raise
            await self._parts.clock.sleep(_LOOK_SECONDS)

    async def drivers(self) -> Drivers:
        """Return the drivers of the term, which may be waited for a while. Raises Unavailable."""
        if self.current is None:
            await wait_for_event(self._began, clock=self._parts.clock, seconds=TERM_SECONDS)
        if self.current is None:
            raise Unavailable(what="the trainer", problem="it is not in the pool of its base yet")
        return self.current

    async def began(self) -> None:
        """Wait until this process is a trainer of the pool."""
        await self._began.wait()

    async def while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something while this process is a trainer of the pool, in each term; until cancelled."""
        while True:
            await self.began()
            working, ended = asyncio.ensure_future(work()), asyncio.ensure_future(self._ended.wait())
            try:
                await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await cancel_all(working, ended)
            if not working.cancelled():
                working.result()

    async def run(self) -> None:
        """Be a trainer of the pool until cancelled; a retryable error begins a new term."""
        while True:
            trouble: list[MintError] = []
            try:
                async with self._pool.joined() as holder:
                    await self._until_drained(holder)
            except* MintError as group:
                trouble = _flat(group)
            raise_if_cancelled()
            if fatal := [error for error in trouble if not error.retryable]:
                raise fatal[0]
            _log.warning("term ended", extra={"problem": str(trouble[0])})
            await self._parts.clock.sleep(_RETRY_SECONDS)

    async def _until_drained(self, holder: Holder) -> None:
        """Serve until cancelled, and then until the policies can go on at the pool's other trainers."""
        serving = asyncio.ensure_future(self._serve(holder))
        try:
            await asyncio.wait([serving])
        except asyncio.CancelledError:
            with suppress(MintError, TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._drain(holder, serving)
            raise
        finally:
            if not serving.done():
                await cancel_all(serving)
        serving.result()

    async def _drain(self, holder: Holder, serving: "asyncio.Future[None]") -> None:
        """Let every policy go, if there is another trainer that can take it."""
        if self.current is None:
            return
        async with asyncio.timeout(_ASK_SECONDS):
            if not await self._pool.others(holder):
                return
        await self._pool.drain(holder)
        draining = asyncio.ensure_future(self.current.drain())
        try:
            await asyncio.wait((draining, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(draining)

    async def _serve(self, holder: Holder) -> None:
        term = LeaseTerm.begun(self._parts, holder)
        async with asyncio.TaskGroup() as group:
            drivers = Drivers(term, group, self._pool)
            try:
                group.create_task(drivers.run())
                group.create_task(self._renew(holder))
                group.create_task(self._sweep(term))
                group.create_task(collect_orphans(term))
                await self._forget_attempts()
                await self._pool.remove_gone(holder)
                await drivers.held.take_waiting()
                group.create_task(self._follow(holder, drivers))
                self.current = drivers
                self._ended.clear()
                self._began.set()
                metrics.LEASE_HELD.set(1)
                await asyncio.Event().wait()
            finally:
                self.current = None
                self._began.clear()
                self._ended.set()
                metrics.LEASE_HELD.set(0)
                # What of it is committed is not known any more, and another trainer may go on.
                self._parts.policies.forget_all()
                with suppress(MintError, TimeoutError):  # else before the next term loads
                    async with asyncio.timeout(_FORGET_SECONDS):
                        await self._forget_attempts()

    async def _forget_attempts(self) -> None:
        if not self._is_broken():
            await forget_attempts(self._parts)

    async def _renew(self, holder: Holder) -> None:
        while True:
            await self._parts.clock.sleep(_RENEW_SECONDS)
            await self._pool.renew(holder)

    async def _follow(self, holder: Holder, drivers: Drivers) -> None:
        """Take over from trainers that are gone, at once; take whatever else waits for a trainer, soon."""
        clock, looked_at = self._parts.clock, self._parts.clock.monotonic()
        while True:
            others = await self._pool.others(holder)
            if others:
                await self._pool.remove_gone(holder)
                others = await self._pool.others(holder)
            self.peers.follow(others)
            is_news, self._others = bool(self._others - others), others
            if is_news or clock.monotonic() - looked_at >= _RENEW_SECONDS:
                await drivers.held.take_waiting()
                if others:
                    await drivers.let_one_go()
                looked_at = clock.monotonic()
            await clock.sleep(POLL_SECONDS if others else _RENEW_SECONDS)

    async def _sweep(self, term: LeaseTerm) -> None:
        """Delete expired data; retry later if a store fails."""
        failures = 0
        while True:
            try:
                await self._sweep_once(term)
                failures = 0
            except Unavailable as error:
                failures += 1
                _log.warning("not swept", extra={"problem": str(error), "failures": failures})
            await self._parts.clock.sleep(max(_SWEEP_SECONDS, retry_seconds(failures)))

    async def _sweep_once(self, term: LeaseTerm) -> None:
        """Delete expired checkpoints, and results past their retention."""
        now = self._parts.clock.now()
        await term.discard(await self._parts.rows.delete_expired(now=now, limit=_SWEPT_TOGETHER))
        before, forgotten = now - self._parts.settings.result_seconds, _SWEPT_TOGETHER
        while forgotten == _SWEPT_TOGETHER:
            forgotten, unused = await self._parts.store.forget_results(before=before, limit=_SWEPT_TOGETHER)
            await term.discard(unused)
        await term.discard_again()


def _flat(group: BaseExceptionGroup[MintError]) -> list[MintError]:
    found: list[MintError] = []
    for error in group.exceptions:
        found += _flat(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
