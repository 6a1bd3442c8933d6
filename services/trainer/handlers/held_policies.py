"""The policies that this trainer holds in a term, and how they come to it and leave it.

Invariants: only a held policy's operations are stored and computed here; a policy is taken together with what
waits in its log, before anything new of it is stored; a policy is let go whole: its log and its snapshot have
all that was executed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mint_common.ids import PolicyId, TenantId
from mint_common.runtime.own_address import member_name
from mint_common.training import PoolTrainer
from services.trainer.adapters.trainer_pool_postgres import TrainerPool
from services.trainer.core.pool import NotHeld, PoolMember, is_overfull, place_policy, plan_taking
from services.trainer.handlers.lease_term import LeaseTerm

_OPENING_SECONDS = 5.0
"""Time for which a session that is being opened here counts before its row does."""
_OPENED_SECONDS = 60.0
"""Time in which an opened session's operation is handed on to its driver, or was not stored."""


class HeldPolicies:
    """The held policies of a term. ``load`` hands what waits in their logs to drivers."""

    def __init__(
        self, term: LeaseTerm, pool: TrainerPool, load: Callable[[Sequence[PolicyId]], Awaitable[object]]
    ) -> None:
        self._term = term
        self._pool = pool
        self._load = load
        self._held: set[PolicyId] = set()
        self._opening: dict[PolicyId, float] = {}
        self._taking = asyncio.Lock()

    def __contains__(self, policy_id: PolicyId) -> bool:
        """Return whether a policy is at work here."""
        return policy_id in self._held

    async def place(
        self, policy_id: PolicyId, *, opens: bool = False, is_sent_on: bool = False
    ) -> PoolMember | None:
        """Return the trainer that takes a policy's next operation in; None: this one, which holds it then.

        None also for a session that is closed, and for one that is not there, unless the operation
        ``opens`` it. Raises NotHeld, Unavailable.
        """
        if policy_id in self._held:
            return None
        async with self._taking:
            return (
                None
                if policy_id in self._held
                else await self._place(policy_id, opens=opens, is_sent_on=is_sent_on)
            )

    async def _place(self, policy_id: PolicyId, *, opens: bool, is_sent_on: bool) -> PoolMember | None:
        holding, me = await self._pool.holding(policy_id), self._term.holder.member
        if (holding is None and not opens) or (holding is not None and holding.is_closed):
            return None
        members = await self._members()
        if holding is None and policy_id in self._opening:
            return None
        if all(member.token != me for member in members):
            raise NotHeld(policy_id=policy_id)  # this trainer counts as gone, and is about to learn it
        chosen = place_policy(holding, members, me=me, is_sent_on=is_sent_on)
        if chosen.token != me:
            if holding is not None and holding.holder == me:
                await self._release(policy_id)
            return chosen
        if holding is None:
            self._opening[policy_id] = self._term.clock.monotonic()
        elif not await self._take([policy_id]):
            raise NotHeld(policy_id=policy_id)
        return None

    async def holder_elsewhere(self, policy_id: PolicyId) -> PoolMember | None:
        """Return the living other trainer that holds a policy, if one does."""
        if policy_id in self._held:
            return None
        holding = await self._pool.holding(policy_id)
        if holding is None or holding.holder is None or holding.holder == self._term.holder.member:
            return None
        members = await self._pool.members(self._term.holder)
        return next((member for member in members if member.token == holding.holder), None)

    async def describe(self, tenant_id: TenantId) -> list[PoolTrainer]:
        """Return the pool's trainers, and which of a tenant's policies are at work on each."""
        members = await self._pool.members(self._term.holder)
        holders = await self._pool.at_work(members, tenant_id)
        return [
            PoolTrainer(
                base=self._term.policies.facts.name,
                trainer_id=member_name(member.url),
                held=member.held,
                room=member.room,
                is_draining=member.is_draining,
                policies=tuple(policy for policy, token in holders.items() if token == member.token),
            )
            for member in members
        ]

    async def take_waiting(self) -> None:
        """Take this trainer's part of the policies whose operations wait and that nobody holds."""
        async with self._taking:
            found = await self._pool.waiting(self._term.holder)
            if waiting := [one for one in found if one not in self._held and one not in self._opening]:
                members = await self._members()
                await self._take(plan_taking(waiting, members, me=self._term.holder.member))

    async def is_overfull(self) -> bool:
        """Return whether a policy should be let go to a trainer with room."""
        return is_overfull(await self._members(), me=self._term.holder.member)

    def open(self, policy_id: PolicyId) -> None:
        """Note that a session was opened here."""
        self._opening.pop(policy_id, None)
        self._held.add(policy_id)

    def drop(self, policy_id: PolicyId) -> None:
        """Note that a policy seems not to be held here any more."""
        self._held.discard(policy_id)

    async def rest(self, policy_id: PolicyId) -> None:
        """Let a policy rest here: nothing of it waits, and its state is stored."""
        self._held.discard(policy_id)
        async with self._taking:
            if policy_id not in self._held:  # else it was taken again meanwhile
                await self._pool.rest(self._term.holder, policy_id)

    async def release(self, policy_id: PolicyId) -> None:
        """Let a policy go, with what waits of it: any trainer may take it."""
        self._held.discard(policy_id)
        async with self._taking:
            if policy_id not in self._held:
                await self._release(policy_id)

    async def _release(self, policy_id: PolicyId) -> None:
        self._term.policies.forget(policy_id)  # another trainer trains it before it comes back
        await self._pool.release(self._term.holder, [policy_id])

    async def _take(self, policies: Sequence[PolicyId]) -> Sequence[PolicyId]:
        taken = await self._pool.take(self._term.holder, policies) if policies else []
        if taken:
            await self._load(taken)
            self._held.update(taken)
        return taken

    async def _members(self) -> list[PoolMember]:
        """Return the pool's trainers; sessions that are being opened here count."""
        now, me = self._term.clock.monotonic(), self._term.holder.member
        self._opening = {key: at for key, at in self._opening.items() if now - at < _OPENED_SECONDS}
        opening = sum(now - at < _OPENING_SECONDS for at in self._opening.values())
        members = await self._pool.members(self._term.holder)
        return [
            replace(member, held=member.held + opening) if member.token == me else member
            for member in members
        ]
