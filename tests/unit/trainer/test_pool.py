"""Placement in a pool: filled one trainer after the other, moved only at rest, one writer a policy."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from mint_common.ids import PolicyId
from services.trainer.core.pool import (
    PolicyHolding,
    PoolMember,
    choose_trainer,
    is_overfull,
    place_policy,
    plan_taking,
)

A = PolicyId("policy_a")


def member(token: int, held: int = 0, *, room: int = 2, is_draining: bool = False) -> PoolMember:
    return PoolMember(token=token, url=f"http://{token}", room=room, held=held, is_draining=is_draining)


@pytest.mark.parametrize(
    ("members", "chosen"),
    [
        ([member(1), member(2)], 1),
        ([member(1, 1), member(2)], 1),
        ([member(1, 2), member(2)], 2),
        ([member(2, 0), member(1, 1)], 1),
        ([member(1, 2), member(2, 2)], 1),
        ([member(1, 3), member(2, 2)], 2),
        ([member(1, 5, room=4), member(2, 3, room=2)], 1),
        ([member(1, is_draining=True), member(2, 9)], 2),
        ([member(1, is_draining=True)], 1),
    ],
)
def test_trainers_are_filled_one_after_the_other(members: Sequence[PoolMember], chosen: int) -> None:
    assert choose_trainer(members).token == chosen


@pytest.mark.parametrize(
    ("holding", "members", "place"),
    [
        (None, [member(1, 2), member(2)], 2),
        (PolicyHolding(holder=None), [member(1), member(2)], 1),
        (PolicyHolding(holder=7), [member(1), member(2)], 1),  # gone
        (PolicyHolding(holder=2), [member(1), member(2, 9)], 2),  # at work: it stays, whatever else is free
        (PolicyHolding(holder=2), [member(1), member(2, is_draining=True)], 2),
        (PolicyHolding(holder=1), [member(1, 9), member(2)], 1),
        (PolicyHolding(holder=2, is_resting=True), [member(1), member(2, 2)], 2),  # its holder decides
        (
            PolicyHolding(holder=1, is_resting=True),
            [member(1, 1), member(2)],
            1,
        ),  # its state may be in memory there
        (PolicyHolding(holder=1, is_resting=True), [member(1, 2), member(2)], 2),
        (PolicyHolding(holder=1, is_resting=True), [member(1, 2), member(2, 2)], 1),
        (PolicyHolding(holder=1, is_resting=True), [member(1, is_draining=True), member(2, 9)], 2),
        (PolicyHolding(holder=1, is_resting=True), [member(1, is_draining=True)], 1),
    ],
)
def test_a_policy_moves_at_rest_only(
    holding: PolicyHolding | None, members: Sequence[PoolMember], place: int
) -> None:
    assert place_policy(holding, members, me=1).token == place


def test_a_policy_without_work_leaves_a_trainer_beyond_its_room_while_another_has_room() -> None:
    assert is_overfull([member(1, 3), member(2, 1)], me=1)
    assert not is_overfull([member(1, 2), member(2, 0)], me=1)
    assert not is_overfull([member(1, 3), member(2, 2)], me=1)
    assert not is_overfull([member(1, 3), member(2, 0, is_draining=True)], me=1)
    assert not is_overfull([member(2, 0)], me=1)


def test_a_chosen_trainer_sends_nothing_on() -> None:
    members = [member(1, 9), member(2)]
    assert place_policy(None, members, me=1, is_sent_on=True).token == 1
    assert place_policy(PolicyHolding(holder=1, is_resting=True), members, me=1, is_sent_on=True).token == 1
    assert place_policy(PolicyHolding(holder=2), members, me=1, is_sent_on=True).token == 2


@pytest.mark.parametrize("seed", range(50))
def test_what_waits_is_shared_out_once(seed: int) -> None:
    rng = random.Random(seed)
    tokens = rng.sample(range(1, 99), rng.randint(1, 5))
    members = [member(token, rng.randint(0, 4), room=rng.randint(1, 4)) for token in tokens]
    waiting = [PolicyId(f"policy_{number}") for number in range(rng.randint(0, 30))]
    plans = [plan_taking(rng.sample(waiting, len(waiting)), members, me=token) for token in tokens]
    assert sorted(policy for plan in plans for policy in plan) == sorted(waiting)


@dataclass(slots=True)
class Row:
    """A policy's row and log: ``committed`` are the numbers of finished operations, in order."""

    holder: int | None = None
    is_resting: bool = False
    log: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class SimTrainer:
    """A trainer's process: ``states`` is what it has in memory, by policy: the operations in it."""

    number: int
    token: int = 0
    is_alive: bool = True
    is_frozen: bool = False
    is_draining: bool = False
    held: set[PolicyId] = field(default_factory=set)
    states: dict[PolicyId, list[int]] = field(default_factory=dict)
    computed: dict[PolicyId, int] = field(default_factory=dict)

    def begin_term(self, token: int) -> None:
        """Forget everything, as a new member."""
        self.token = token
        self.is_draining = False
        self.held, self.states, self.computed = set(), {}, {}


class Schedule:
    """A pool of trainers over one database, in any order of events. Rooms are small, so that much moves."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.rows = {PolicyId(f"policy_{number}"): Row() for number in range(6)}
        self.members: set[int] = set()
        self.draining: set[int] = set()
        self.tokens = 0
        self.moves = 0
        self.trainers = [SimTrainer(number) for number in range(3)]
        for trainer in self.trainers:
            self.join(trainer)

    def join(self, trainer: SimTrainer) -> None:
        self.tokens += 1
        self.members.add(self.tokens)
        trainer.begin_term(self.tokens)

    def listed(self) -> list[PoolMember]:
        held = [row.holder for row in self.rows.values() if not row.is_resting]
        return [
            member(token, held.count(token), is_draining=token in self.draining)
            for token in sorted(self.members)
        ]

    def up(self) -> list[SimTrainer]:
        return [one for one in self.trainers if one.is_alive and not one.is_frozen]

    def take(self, trainer: SimTrainer, policy: PolicyId) -> bool:
        row = self.rows[policy]
        if trainer.token not in self.members or (row.holder in self.members and row.holder != trainer.token):
            return False
        self.moves += row.holder not in (None, trainer.token)
        row.holder, row.is_resting = trainer.token, False
        if policy not in trainer.held:
            trainer.held.add(policy)
            trainer.computed.pop(policy, None)
        return True

    def submit(self, policy: PolicyId, via: SimTrainer, *, is_sent_on: bool = False) -> None:
        if via.token not in self.members or not via.is_alive or via.is_frozen:
            return
        row = self.rows[policy]
        if policy not in via.held:
            holding = PolicyHolding(holder=row.holder, is_resting=row.is_resting)
            chosen = place_policy(holding, self.listed(), me=via.token, is_sent_on=is_sent_on)
            if chosen.token != via.token:
                if row.holder == via.token:
                    assert row.is_resting
                    row.holder, row.is_resting = None, False
                    via.states.pop(policy, None)
                    self.moves += 1
                others = [one for one in self.trainers if one.token == chosen.token]
                if others and not is_sent_on:
                    self.submit(policy, others[0], is_sent_on=True)
                return
            if not self.take(via, policy):
                return
        if row.holder == via.token:  # the statement's own check
            row.log.append(len(row.log))

    def compute(self, trainer: SimTrainer) -> None:
        """Compute the next operation of a held policy, on what is in memory."""
        for policy in self.rng.sample(sorted(trainer.held), len(trainer.held)):
            row = self.rows[policy]
            if policy in trainer.computed:
                continue
            state = trainer.states.setdefault(policy, list(row.committed))
            if len(state) < len(row.log):
                trainer.computed[policy] = row.log[len(state)]
                return

    def commit(self, trainer: SimTrainer) -> None:
        """Commit what was computed, if the fence lets it; else begin a new term."""
        for policy, seq in list(trainer.computed.items()):
            row = self.rows[policy]
            if row.holder != trainer.token:
                self.members.discard(trainer.token)
                self.join(trainer)
                return
            assert trainer.states[policy] == row.committed, "two writers"
            row.committed.append(seq)
            trainer.states[policy].append(seq)
            del trainer.computed[policy]

    def rest(self, trainer: SimTrainer) -> None:
        for policy in sorted(trainer.held):
            row = self.rows[policy]
            if policy not in trainer.computed and len(row.committed) == len(row.log):
                trainer.held.discard(policy)
                if row.holder == trainer.token:
                    if trainer.is_draining:
                        row.holder = None
                        trainer.states.pop(policy, None)
                    else:
                        row.is_resting = True
                return

    def look(self, trainer: SimTrainer) -> None:
        """Remove who is gone, renew, and take what waits."""
        if trainer.token not in self.members:
            self.join(trainer)
        self.members &= {one.token for one in self.trainers}  # those of ended processes go
        for other in self.trainers:
            is_gone = not other.is_alive or (other.is_frozen and self.rng.random() < 0.3)
            if is_gone and other is not trainer:
                self.members.discard(other.token)
        waiting = [
            policy
            for policy, row in self.rows.items()
            if len(row.log) > len(row.committed)
            and (row.holder == trainer.token or row.holder not in self.members)
            and policy not in trainer.held
        ]
        for policy in plan_taking(waiting, self.listed(), me=trainer.token):
            self.take(trainer, policy)

    def disturb(self) -> None:
        trainer = self.rng.choice(self.trainers)
        kind = self.rng.random()
        if not trainer.is_alive:
            trainer.is_alive, trainer.is_frozen = True, False
            self.join(trainer)
        elif trainer.is_frozen:
            trainer.is_frozen = False
        elif kind < 0.4:
            trainer.is_frozen = True
        elif kind < 0.7 and len(self.up()) > 1:
            trainer.is_alive = False
            trainer.held, trainer.computed = set(), {}
        elif len(self.up()) > 1:
            trainer.is_draining = True
            self.draining.add(trainer.token)

    def step(self) -> None:
        kind = self.rng.random()
        if kind < 0.04:
            self.disturb()
            return
        running = self.up()
        if not running:
            return
        trainer = self.rng.choice(running)
        if kind < 0.3:
            self.submit(self.rng.choice(sorted(self.rows)), trainer)
        elif kind < 0.55:
            self.compute(trainer)
        elif kind < 0.8:
            self.commit(trainer)
        elif kind < 0.9:
            self.look(trainer)
        else:
            self.rest(trainer)

    def settle(self) -> None:
        """Thaw and start everything, and do all that is left."""
        for trainer in self.trainers:
            if not trainer.is_alive:
                trainer.is_alive = True
                self.join(trainer)
            trainer.is_frozen = False
        for _ in range(2000):
            if all(row.committed == row.log for row in self.rows.values()):
                return
            for trainer in self.trainers:
                self.look(trainer)
                self.compute(trainer)
                self.commit(trainer)
        raise AssertionError([(row.holder, row.log, row.committed) for row in self.rows.values()])


@pytest.mark.parametrize("block", range(10))
def test_no_schedule_gives_a_policy_two_writers(block: int) -> None:
    for seed in range(100 * block, 100 * block + 100):
        schedule = Schedule(seed)
        for _ in range(400):
            schedule.step()
        schedule.settle()
        assert any(row.committed for row in schedule.rows.values())


def test_without_disturbances_no_policy_moves() -> None:
    schedule = Schedule(1)
    schedule.disturb = lambda: None  # type: ignore[method-assign]  # the calm run
    for _ in range(3000):
        schedule.step()
    schedule.settle()
    holders = [row.holder for row in schedule.rows.values()]
    assert schedule.moves <= len(schedule.rows)
    assert {holders.count(token) for token in (1, 2, 3)} <= {1, 2, 3}
