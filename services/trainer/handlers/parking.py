"""The wait of one policy whose work cannot continue now, and its event.

Invariant: data that one policy cannot read, store or restore delays that policy only.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from mint_common.errors import MintError
from mint_common.events import PolicyParked
from services.trainer.core.operations import Fenced, TrainingSession
from services.trainer.core.parking import Parked, park, retry_seconds
from services.trainer.core.ranks import RankLost
from services.trainer.core.refusals import CheckpointLost
from services.trainer.handlers.lease_term import LeaseTerm, begin_task

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Parking:
    """Whether a policy is parked. Its tasks belong to ``group``."""

    def __init__(self, term: LeaseTerm, session: TrainingSession, group: asyncio.TaskGroup) -> None:
        self.parked: Parked | None = None
        self._term = term
        self._session = session
        self._group = group

    @property
    def retry_at(self) -> float | None:
        """Return until when the policy waits, None when it does not."""
        parked = self.parked
        return parked.retry_at if parked and parked.retry_at > self._term.clock.monotonic() else None

    def note(self, trouble: BaseException) -> None:
        """Park the policy after a failure. Raises Fenced, which affects all policies."""
        if isinstance(trouble, Fenced):
            raise trouble
        is_known = isinstance(trouble, MintError)
        code = trouble.code if isinstance(trouble, MintError) else "execution_failed"
        reason = str(trouble) if is_known else f"the trainer failed: {type(trouble).__name__}"
        self.parked = park(self.parked, code=code, reason=reason, now=self._term.clock.monotonic())
        _log.warning(
            "policy parked",
            extra={
                "policy_id": self._session.policy_id,
                "code": code,
                "failures": self.parked.failures,
                "problem": reason,
            },
            exc_info=None if is_known else trouble,
        )
        if self.parked.is_news:
            begin_task(self._group, self._tell(self.parked))

    def end(self) -> None:
        """Record that the policy's work continues."""
        self.parked = None

    async def restored(self, restore: Callable[..., Awaitable[None]], *, alone: bool = False) -> bool:
        """Return whether a policy is restored, else it is parked now. Raises CheckpointLost, RankLost."""
        restoring = restore(alone=alone or self.parked is not None)
        (trouble,) = await asyncio.gather(restoring, return_exceptions=True)
        if isinstance(trouble, CheckpointLost | RankLost):
            raise trouble
        if trouble is not None:
            self.note(trouble)
        return trouble is None

    async def until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do repeatable work until it succeeds. Raises errors that a retry cannot fix, and Fenced."""
        while True:
            try:
                done = await work()
            except MintError as error:
                if not error.retryable:
                    raise
                self.note(error)
            else:
                self.end()
                return done
            await self._term.clock.sleep(retry_seconds(self.parked.failures if self.parked else 1))

    async def _tell(self, parked: Parked) -> None:
        event = PolicyParked(
            tenant_id=self._session.tenant_id,
            base=self._session.base,
            policy_id=self._session.policy_id,
            at=int(self._term.clock.now()),
            code=parked.code,
            reason=parked.reason,
            retry_seconds=retry_seconds(parked.failures),
        )
        with suppress(MintError):  # a database that is away ends the term by itself
            async with self._term.ledger.transaction(event.id) as transaction:
                await transaction.emit(event)
