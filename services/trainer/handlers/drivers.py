"""The drivers of a term, and how operations reach them: stored first, then handed on."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from mint_common.claims import Claim
from mint_common.errors import MintError, Unavailable
from mint_common.ids import PolicyId, TenantId
from mint_common.training import Operation, Resumption
from services.trainer.adapters.trainer_pool_postgres import TrainerPool
from services.trainer.core.batch import Batch
from services.trainer.core.operations import NewOperation, StoredOperation, TrainingSession
from services.trainer.core.pool import NotHeld
from services.trainer.core.wave_operations import LoggedOperation, NewWave, plan_close, plan_resumption
from services.trainer.handlers.backlog import Backlog
from services.trainer.handlers.commit_queue import CommitQueue
from services.trainer.handlers.driver import Driver
from services.trainer.handlers.group_commit import GroupCommit
from services.trainer.handlers.held_policies import HeldPolicies
from services.trainer.handlers.lease_term import LeaseTerm, begin_task

_LOOK_SECONDS = 0.05


class Drivers:
    """The drivers of a term."""

    def __init__(self, term: LeaseTerm, group: asyncio.TaskGroup, pool: TrainerPool) -> None:
        self.held = HeldPolicies(term, pool, self.load)
        self._term = term
        self._group = group
        self._by_policy: dict[PolicyId, Driver] = {}
        self._leaving: set[PolicyId] = set()
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
        return sum(
            len(driver.waiting) for driver in self._by_policy.values() if driver.tenant_id == tenant_id
        )

    async def load(self, policies: Sequence[PolicyId], *, is_managed: bool = False) -> list[Driver]:
        """Take over what waits of policies and no driver knows; return who has it.

        ``is_managed``: of managed ones, whose operations count in no backlog.
        """
        found: dict[PolicyId, list[StoredOperation]] = {}
        for stored in await self._term.store.unfinished(policies, is_managed=is_managed):
            if not is_managed:
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
        (outcome,) = await self._term.store.add(self._term.holder, [new], is_managed=session.is_managed)
        if isinstance(outcome, MintError):
            raise outcome
        if outcome:
            await self._arrive(session.policy_id, [(new.seq, operation)])

    async def append(
        self, wave: NewWave, cause: str, *, records: Mapping[Claim, Batch], opens: bool = False
    ) -> None:
        """Store a wave's operations in the transaction that takes its event in, and hand them on.

        ``records`` is what its records hold, so that they are read once; ``opens``: there was no session.
        Raises AlreadyHandled, Fenced, PolicyTaken.
        """
        term = self._term
        async with term.ledger.transaction(cause) as transaction:
            await term.store.add_within(transaction.connection, term.holder, wave)
        if opens:
            self.held.open(wave.policy_id)
        await self._arrive(wave.policy_id, wave.operations.items(), records)

    async def settle(self, policy_id: PolicyId, *, seconds: float) -> bool:
        """Return whether nothing of a managed policy waits; wait for that, but not longer than a while.

        Raises Unavailable for one that is parked, NotHeld for one that another trainer holds.
        """
        if await self.held.place(policy_id, opens=True) is not None:
            raise NotHeld(policy_id=policy_id)
        driver = self.find(policy_id)
        if driver is not None and driver.is_managed and driver.waiting:
            if parked := driver.parking.parked:
                raise Unavailable(what="the training of the policy", problem=parked.reason)
            await driver.wait_until_idle(seconds=seconds)
            return False
        # What a lost connection left unclear may wait without its driver's knowledge.
        return policy_id not in self.held or not await self.load([policy_id], is_managed=True)

    async def cover(self, policy_id: PolicyId) -> None:
        """Ensure that a snapshot covers a policy's executed operations."""
        (await self._driver(policy_id)).cover()

    async def skip(self, policy_id: PolicyId, seq: int) -> None:
        """Let nothing of a policy wait for a number."""
        (await self._driver(policy_id)).skip(seq)

    async def drain(self) -> None:
        """Let every policy go when what is under way of it is stored."""
        while self._by_policy or self._leaving:
            for driver in self._by_policy.values():
                if not driver.is_leaving:
                    driver.leave()
            await self._term.clock.sleep(_LOOK_SECONDS)

    async def let_one_go(self) -> None:
        """Let a policy go to another trainer, if this one has more than its room: the one that waits least.

        What is under way of it is committed first, and a snapshot covers it.
        """
        if any(driver.is_leaving for driver in self._by_policy.values()) or not await self.held.is_overfull():
            return
        open_ones = [driver for driver in self._by_policy.values() if not driver.is_closed]
        if open_ones:
            min(open_ones, key=lambda driver: len(driver.waiting)).leave()

    async def _add(self, items: Sequence[tuple[NewOperation, Operation]]) -> Sequence[bool | MintError]:
        outcomes = await self._term.store.add(self._term.holder, [new for new, _ in items])
        stored: dict[PolicyId, list[tuple[NewOperation, Operation]]] = {}
        for (new, operation), outcome in zip(items, outcomes, strict=True):
            if isinstance(outcome, NotHeld):
                self.held.drop(new.policy_id)
            if outcome is True:
                if new.opens:
                    self.held.open(new.policy_id)
                self.backlog.note(new.tenant_id, new.policy_id, new.seq, new.payload.size_bytes)
                stored.setdefault(new.policy_id, []).append((new, operation))
        for policy_id, operations in stored.items():
            for new, operation in operations:
                driver = self.find(policy_id)
                kept = _kept(new, operation, is_next=not (driver and driver.waiting))
                await self._arrive(policy_id, [(new.seq, kept)])
        return outcomes

    async def _arrive(
        self,
        policy_id: PolicyId,
        operations: Iterable[tuple[int, LoggedOperation | StoredOperation]],
        records: Mapping[Claim, Batch] = MappingProxyType({}),
    ) -> None:
        """Hand stored operations to the policy's driver."""
        if policy_id in self.held:
            (await self._driver(policy_id)).arrive(operations, records)
        else:  # it was let go meanwhile: whoever takes it reads its log
            await self.held.place(policy_id)

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
            if driver.is_closed:
                self.held.drop(driver.policy_id)
            elif driver.is_leaving:
                for seq in driver.waiting:
                    self.backlog.end(driver.tenant_id, driver.policy_id, seq)
                self._leaving.add(driver.policy_id)
                await self.held.release(driver.policy_id)
                self._leaving.discard(driver.policy_id)
            else:
                await self.held.rest(driver.policy_id)


def _kept(new: NewOperation, operation: Operation, *, is_next: bool) -> LoggedOperation | StoredOperation:
    """Return the part of a waiting operation to hold in memory: a large one's bytes stay stored."""
    if is_next or not new.payload.is_claim:
        return operation
    return StoredOperation(policy_id=new.policy_id, seq=new.seq, tenant_id=new.tenant_id, payload=new.payload)
