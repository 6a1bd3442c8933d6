"""The drivers of a term of the lease, and how operations reach them: stored first, then handed on."""

import asyncio
from collections.abc import Mapping, Sequence

from mint_common.claims import Claim
from mint_common.errors import MintError, Unavailable
from mint_common.ids import PolicyId, TenantId
from mint_common.training import Operation, Resumption
from services.trainer.core.batch import Batch
from services.trainer.core.operations import NewOperation, StoredOperation, TrainingSession
from services.trainer.core.wave_operations import LoggedOperation, NewWave, plan_close, plan_resumption
from services.trainer.handlers.backlog import Backlog
from services.trainer.handlers.commit_queue import CommitQueue
from services.trainer.handlers.driver import Driver
from services.trainer.handlers.group_commit import GroupCommit
from services.trainer.handlers.lease_term import LeaseTerm, begin_task


class Drivers:
    """The drivers of a term."""

    def __init__(self, term: LeaseTerm, group: asyncio.TaskGroup) -> None:
        self._term = term
        self._group = group
        self._by_policy: dict[PolicyId, Driver] = {}
        self._making = asyncio.Lock()
        self._adding: GroupCommit[tuple[NewOperation, Operation], bool | MintError] = GroupCommit(self._add)
        self._commits = CommitQueue(term, group)

    async def run(self) -> None:
        """Store arriving operations and commit executed ones, until cancelled.

        Raises the store's MintError.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._adding.run())
            group.create_task(self._commits.run())

    @property
    def backlog(self) -> Backlog:
        """Return the bytes of what waits."""
        return self._term.backlog

    def find(self, policy_id: PolicyId) -> Driver | None:
        """Return a policy's driver, if it has one now."""
        return self._by_policy.get(policy_id)

    def waiting(self, tenant_id: TenantId) -> int:
        """Return how many operations of a tenant wait."""
        return sum(driver.waiting for driver in self._by_policy.values() if driver.tenant_id == tenant_id)

    async def load(self, managed: PolicyId | None = None) -> list[Driver]:
        """Take over what waits and no driver knows, of one managed policy or all; return who has it."""
        found: dict[PolicyId, list[StoredOperation]] = {}
        for stored in await self._term.store.unfinished(managed):
            if managed is None:
                self.backlog.note(stored.tenant_id, stored.policy_id, stored.seq, stored.size_bytes)
            found.setdefault(stored.policy_id, []).append(stored)
        drivers = [await self._driver(policy_id) for policy_id in found]
        for driver in drivers:
            driver.take_over(found[driver.policy_id])
        return drivers

    async def add(self, new: NewOperation, operation: Operation) -> bool | MintError:
        """Store an operation and hand it on; return whether it is new, or why not."""
        return await self._adding.put((new, operation))

    async def resume(self, session: TrainingSession, resumption: Resumption) -> int:
        """Let a policy go on from a revision, whatever is known of its state; return the operation's number.

        Raises SessionClosed, NotFound.
        """
        new, operation = plan_resumption(session, resumption, now=self._term.clock.now())
        await self._append_own(session, new, operation)
        return new.seq

    async def close(self, session: TrainingSession) -> None:
        """End a policy's session after what has arrived. Idempotent. Raises SessionClosed."""
        await self._append_own(session, *plan_close(session, now=self._term.clock.now()))

    async def _append_own(
        self, session: TrainingSession, new: NewOperation, operation: LoggedOperation
    ) -> None:
        """Store an operation that neither a client nor a wave asked for, and hand it on."""
        (outcome,) = await self._term.store.add(self._term.token, [new], is_managed=session.is_managed)
        if isinstance(outcome, MintError):
            raise outcome
        if outcome:
            (await self._driver(session.policy_id)).arrive([(new.seq, operation)])

    async def append(self, wave: NewWave, cause: str, *, records: Mapping[Claim, Batch]) -> None:
        """Store a wave's operations in the transaction that takes its event in, and hand them on.

        ``records`` is what its records hold, so that they are read once. Raises AlreadyHandled, Fenced,
        PolicyTaken.
        """
        term = self._term
        async with term.ledger.transaction(cause) as transaction:
            await term.store.add_within(transaction.connection, term.token, wave)
        (await self._driver(wave.policy_id)).arrive(wave.operations.items(), records)

    async def settle(self, policy_id: PolicyId, *, seconds: float) -> bool:
        """Return whether nothing of a managed policy waits; wait for that, but not longer than a while.

        Raises Unavailable for one that is parked.
        """
        driver = self.find(policy_id)
        if driver is not None and driver.is_managed and driver.waiting:
            if parked := driver.parking.parked:
                raise Unavailable(what="the training of the policy", problem=parked.reason)
            await driver.wait_until_idle(seconds=seconds)
            return False
        # What a lost connection left unclear may wait without its driver's knowledge.
        return not await self.load(policy_id)

    async def cover(self, policy_id: PolicyId) -> None:
        """Ensure that a snapshot covers a policy's executed operations."""
        (await self._driver(policy_id)).cover()

    async def skip(self, policy_id: PolicyId, seq: int) -> None:
        """Let nothing of a policy wait for a number."""
        (await self._driver(policy_id)).skip(seq)

    async def _add(self, items: Sequence[tuple[NewOperation, Operation]]) -> Sequence[bool | MintError]:
        outcomes = await self._term.store.add(self._term.token, [new for new, _ in items])
        stored: dict[PolicyId, list[tuple[NewOperation, Operation]]] = {}
        for (new, operation), outcome in zip(items, outcomes, strict=True):
            if outcome is True:
                self.backlog.note(new.tenant_id, new.policy_id, new.seq, new.payload.size_bytes)
                stored.setdefault(new.policy_id, []).append((new, operation))
        for policy_id, operations in stored.items():
            driver = await self._driver(policy_id)
            for new, operation in operations:
                driver.arrive([(new.seq, _kept(new, operation, is_next=not driver.waiting))])
        return outcomes

    async def _driver(self, policy_id: PolicyId) -> Driver:
        async with self._making:  # a policy has one driver
            driver = self._by_policy.get(policy_id)
            if driver is None or driver.is_ended:
                session = await self._term.store.session(policy_id)
                assert session is not None, policy_id
                driver = Driver(self._term, self._commits, self._group, session)
                self._by_policy[policy_id] = driver
                begin_task(self._group, self._run(driver))
            return driver

    async def _run(self, driver: Driver) -> None:
        await driver.run()
        if self._by_policy.get(driver.policy_id) is driver:
            del self._by_policy[driver.policy_id]
            # Nothing of it waits, and its state is stored: it may leave memory until it is to change again.
            self._term.policies.release(driver.policy_id)


def _kept(new: NewOperation, operation: Operation, *, is_next: bool) -> LoggedOperation | StoredOperation:
    """Return the part of a waiting operation to hold in memory: a large one's bytes stay stored."""
    if is_next or not new.payload.is_claim:
        return operation
    return StoredOperation(policy_id=new.policy_id, seq=new.seq, tenant_id=new.tenant_id, payload=new.payload)
