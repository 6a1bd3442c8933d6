"""Which trainer of a base's pool holds a policy.

Invariants (tests/unit/trainer/test_pool.py): a policy at work stays with its holder until that one is gone or
lets it go; a policy at rest moves only from a trainer without room to one with room; trainers are filled one
after the other, in the order in which they joined: passes that are ready together are computed together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mint_common.errors import Unavailable
from mint_common.ids import PolicyId


class NotHeld(Unavailable):
    """Another trainer holds policy {policy_id!r} by now: send it again."""

    code = "not_held"


class HolderAway(Unavailable):
    """The trainer that holds the policy does not answer: send it again."""

    code = "holder_away"


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A trainer's term in a pool. Each commit checks both numbers in its transaction.

    ``pool`` is the token of the base's lease, which the pool's trainers hold together; ``member`` is the
    trainer's own, never used again.
    """

    pool: int
    member: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMember:
    """A trainer of a pool: ``held`` policies are at work on it, and ``room`` can be stepped together."""

    token: int
    url: str
    room: int
    held: int = 0
    is_draining: bool = False

    @property
    def has_room(self) -> bool:
        """Return whether it takes another policy before the next trainer does."""
        return not self.is_draining and self.held < self.room


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyHolding:
    """Who holds a policy: the token of a pool member, which may be gone. None: nobody does.

    ``is_resting``: nothing of it waits there, and its state is stored.
    """

    holder: int | None
    is_resting: bool = False
    is_closed: bool = False


def choose_trainer(members: Sequence[PoolMember]) -> PoolMember:
    """Return the trainer that takes a free policy: the first with room, else the least filled."""
    open_ones = [member for member in members if not member.is_draining] or list(members)
    for member in sorted(open_ones, key=lambda member: member.token):
        if member.has_room:
            return member
    return min(open_ones, key=lambda member: (member.held / member.room, member.token))


def place_policy(
    holding: PolicyHolding | None, members: Sequence[PoolMember], *, me: int, is_sent_on: bool = False
) -> PoolMember:
    """Return the living trainer where a policy's next operation is taken in.

    ``members`` are those that live, with the asking one, ``me``. ``is_sent_on``: another trainer has
    chosen this one.
    """
    by_token = {member.token: member for member in members}
    holder = by_token.get(holding.holder) if holding and holding.holder is not None else None
    if holder is None:
        return by_token[me] if is_sent_on else choose_trainer(members)
    assert holding is not None
    if not holding.is_resting or holder.token != me or is_sent_on or holder.has_room:
        return holder
    chosen = choose_trainer(members)
    return chosen if chosen.has_room or holder.is_draining else holder


def is_overfull(members: Sequence[PoolMember], *, me: int) -> bool:
    """Return whether a policy should leave this trainer: it is beyond its room, another is not.

    Each such move leaves the pool with fewer policies beyond their trainers' room, so the moves end.
    """
    mine = next((member for member in members if member.token == me), None)
    return mine is not None and mine.held > mine.room and any(member.has_room for member in members)


def plan_taking(waiting: Sequence[PolicyId], members: Sequence[PoolMember], *, me: int) -> list[PolicyId]:
    """Return which of the free policies with waiting operations this trainer takes; the others take the rest.

    Each trainer plans alone: from the same rows they plan the same, and a policy is taken once in any case.
    """
    filled = {member.token: member for member in members}
    mine = []
    for policy_id in sorted(waiting):
        chosen = choose_trainer(list(filled.values()))
        filled[chosen.token] = replace(chosen, held=chosen.held + 1)
        if chosen.token == me:
            mine.append(policy_id)
    return mine
