"""A simulator of kill -9: a process that dies at chosen points of its dealings with the bus and the ledger.

The bus and the ledger live on, as servers do; whatever the dead process still tries fails. Everything is
decided by the lengths of its lives, so a failing run repeats exactly.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from mint_common.bus.port import Bus, Delivery, Message, Start
from mint_common.errors import EventInvalid
from mint_common.runtime.ledger_postgres import PostgresLedger, PostgresTransaction
from tests.testing.clock import ManualClock

LIMIT_SECONDS = 300.0
"""Maximum duration of the last life, by the simulated clock."""


class Crash(BaseException):
    """The process is dead. Not an Exception: no code of the process may handle it."""


class Life:
    """Number of points that a process passes before it dies; None is an unlimited life."""

    def __init__(self, points: int | None) -> None:
        self._left = points
        self.passed: list[str] = []

    def pass_point(self, name: str) -> None:
        """Go on, or die here."""
        if self._left == 0:
            raise Crash(name)
        if self._left is not None:
            self._left -= 1
        self.passed.append(name)


class MortalBus:
    """A bus as one process sees it."""

    def __init__(self, bus: Bus, life: Life) -> None:
        self._bus = bus
        self._life = life

    async def publish(self, message: Message) -> None:
        """Publish; the process may die before or after."""
        self._life.pass_point("before publish")
        await self._bus.publish(message)
        self._life.pass_point("after publish")

    async def publish_in_order(self, messages: Sequence[Message]) -> list[EventInvalid | None]:
        """Publish; the process may die before, between and after."""
        for message in messages:
            await self.publish(message)
        return [None] * len(messages)

    @asynccontextmanager
    async def subscribe(
        self,
        *,
        durable: str,
        subjects: Sequence[str],
        ack_wait_seconds: float = 30.0,
        batch: int = 1,
        start: Start = "oldest",
    ) -> AsyncIterator[AsyncIterator[Delivery]]:
        """Open a subscription whose answers may be the process's last act."""
        async with self._bus.subscribe(
            durable=durable, subjects=subjects, ack_wait_seconds=ack_wait_seconds, batch=batch, start=start
        ) as deliveries:
            yield _MortalDeliveries(deliveries, self._life)

    @asynccontextmanager
    async def watch(
        self, *, subjects: Sequence[str], on_gap: Callable[[], None] = lambda: None
    ) -> AsyncIterator[AsyncIterator[Message]]:
        """Watch; nothing is at stake."""
        async with self._bus.watch(subjects=subjects, on_gap=on_gap) as messages:
            yield messages

    async def oldest_waiting(self, *, durable: str) -> float | None:
        """Ask the bus."""
        return await self._bus.oldest_waiting(durable=durable)

    async def close(self) -> None:
        """Leave the bus open: it outlives the process."""


class _MortalDeliveries:
    def __init__(self, deliveries: AsyncIterator[Delivery], life: Life) -> None:
        self._deliveries = deliveries
        self._life = life

    def __aiter__(self) -> "_MortalDeliveries":
        return self

    async def __anext__(self) -> Delivery:
        delivery = await anext(self._deliveries)
        self._life.pass_point("after delivery")
        return _MortalDelivery(delivery, self._life)


class _MortalDelivery:
    def __init__(self, delivery: Delivery, life: Life) -> None:
        self._delivery = delivery
        self._life = life
        self.message, self.attempt = delivery.message, delivery.attempt

    async def ack(self) -> None:
        await self._answer("ack", self._delivery.ack)

    async def retry(self, *, delay_seconds: float) -> None:
        await self._answer("retry", lambda: self._delivery.retry(delay_seconds=delay_seconds))

    async def reject(self) -> None:
        await self._answer("reject", self._delivery.reject)

    async def extend(self) -> None:
        await self._answer("extend", self._delivery.extend)

    async def _answer(self, name: str, answer: Callable[[], Awaitable[None]]) -> None:
        self._life.pass_point(f"before {name}")
        await answer()
        self._life.pass_point(f"after {name}")


class MortalLedger:
    """A ledger as one process sees it."""

    def __init__(self, ledger: PostgresLedger, life: Life) -> None:
        self._ledger = ledger
        self._life = life

    async def is_known(self, cause: str) -> bool:
        """Ask; the process may die first."""
        self._life.pass_point("before is known")
        return await self._ledger.is_known(cause)

    def transaction(self, cause: str) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open a transaction; the process may die before it, before its commit, or right after."""
        return self._mortal(self._ledger.transaction(cause))

    def request(self, cause: str | None) -> AbstractAsyncContextManager[PostgresTransaction]:
        """Open the transaction of a request; the process may die as in any other."""
        return self._mortal(self._ledger.request(cause))

    async def first_answer(self, cause: str) -> bytes | None:
        """Ask; the process may die first."""
        self._life.pass_point("before first answer")
        return await self._ledger.first_answer(cause)

    @asynccontextmanager
    async def _mortal(
        self, opened: AbstractAsyncContextManager[PostgresTransaction]
    ) -> AsyncIterator[PostgresTransaction]:
        self._life.pass_point("before transaction")
        async with opened as transaction:
            yield transaction
            self._life.pass_point("before commit")
        self._life.pass_point("after commit")

    async def repeat(self, cause: str) -> None:
        """Repeat; the process may die before or after."""
        self._life.pass_point("before repeat")
        await self._ledger.repeat(cause)
        self._life.pass_point("after repeat")


async def live_and_die(
    process: Callable[[Life], Awaitable[None]],
    *,
    lives: Sequence[int],
    clock: ManualClock,
    is_done: Callable[[], bool],
) -> None:
    """Run a process through some short lives and a last, unlimited one, until the work is done.

    ``process`` runs until cancelled; a life may also end because the work is done before it. Raises
    TimeoutError when the last life does not finish the work.
    """
    for points in (*lives, None):
        task = asyncio.ensure_future(process(Life(points)))
        deadline = clock.now() + LIMIT_SECONDS
        while not task.done() and not is_done() and clock.now() < deadline:
            await clock.advance(1.0)
        task.cancel()
        await asyncio.wait([task])
        _raise_unless_ended(task)
    if not is_done():
        raise TimeoutError("the work is not done")


def _raise_unless_ended(task: "asyncio.Future[None]") -> None:
    """Raise what ended a process if it was neither a crash nor its cancellation."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not _is_crash(error):
        raise error


def _is_crash(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_crash(each) for each in error.exceptions)
    return isinstance(error, Crash)
