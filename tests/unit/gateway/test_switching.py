"""A name that was moved: the former revision answers until the new one is ready, for a bounded time."""

from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from mint_common.catalog import Resolution
from mint_common.ids import PolicyId, TenantId
from services.gateway.core.resolutions import Found, ResolutionCache
from tests.unit.gateway.test_resolutions import meaning

KEY = (TenantId("a"), "p@prod")
POLICY = PolicyId("pol_p")
LEASE, SWITCH = 5.0, 20.0


@dataclass
class World:
    """A registry, what is ready on engines, a clock, and a gateway's memory of one alias."""

    now: float = 1000.0
    moves: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 1)])
    ready: set[int] = field(default_factory=set)
    retired: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.cache = ResolutionCache(
            capacity=4, lease_seconds=LEASE, switch_seconds=SWITCH, is_ready=self._is_ready
        )
        self.wanted: list[int] = []

    @property
    def truth(self) -> int:
        return self.moves[-1][1]

    def move(self, number: int, *, told: bool = True) -> None:
        self.moves.append((self.now, number))
        if told:
            self.cache.forget(POLICY, at=self.now)

    def ask(self) -> int:
        """Resolve the alias, and return the number of the revision that answers."""
        known = self.cache.get(KEY, now=self.now)
        return self.number(known) if known else self.answer(self.cache.ask(), asked_at=self.now)

    def answer(self, ticket: int, *, asked_at: float, number: int | None = None) -> int:
        """Take the registry's answer: the truth, unless a test says otherwise."""
        found: Found = self.cache.put(
            KEY, meaning("p", number or self.truth), ticket=ticket, asked_at=asked_at, now=self.now
        )
        if found.wanted is not None:
            self.wanted.append(self.number(found.wanted))
        return self.number(found.answer)

    def number(self, resolution: Resolution) -> int:
        assert resolution.revision is not None
        return resolution.revision.number

    def _is_ready(self, resolution: Resolution) -> bool:
        return self.number(resolution) in self.ready


def moved(*, ready: set[int], told: bool = True) -> World:
    """Return a world whose alias has answered with 1, and now means 2."""
    world = World(ready=ready)
    assert world.ask() == 1
    world.move(2, told=told)
    return world


def test_the_former_revision_answers_until_the_new_one_is_ready() -> None:
    world = moved(ready={1})
    assert [world.ask(), world.ask()] == [1, 1]
    assert world.wanted == [2], "its load is asked for once"
    assert world.cache.behind(KEY) == 1
    world.ready.add(2)
    assert world.ask() == 2
    assert world.cache.behind(KEY) == 0
    world.ready.remove(2)
    assert world.ask() == 2, "there is no way back"


def test_the_time_is_bounded_however_often_the_name_is_asked_or_moved() -> None:
    world = moved(ready={1})
    answers = []
    for second in range(30):
        if second == 10:
            world.move(3)
        answers.append(world.ask())
        world.now += 1.0
    assert answers == [1] * 20 + [3] * 10


def test_a_name_whose_former_revision_is_nowhere_switches_at_once() -> None:
    assert moved(ready=set()).ask() == 2


def test_a_name_that_was_never_asked_for_switches_at_once() -> None:
    world = World(ready={1})
    world.move(2)
    assert world.ask() == 2


def test_the_time_counts_from_the_move_on() -> None:
    world = moved(ready={1})
    world.now += SWITCH - 1
    assert world.ask() == 1
    world.now += 1
    assert world.ask() == 2


def test_what_was_not_asked_for_in_long_is_not_held() -> None:
    world = World(ready={1})
    assert world.ask() == 1
    world.move(2, told=False)
    world.now += LEASE + SWITCH
    world.move(3)
    assert world.ask() == 3, "word of a move does not say that there was no other before"


def test_what_answered_last_is_held_even_if_nobody_asked_while_it_became_ready() -> None:
    world = moved(ready={1})
    assert world.ask() == 1
    world.now += LEASE
    world.ready.add(2)
    world.move(3)
    assert world.ask() == 2


def test_a_rollback_to_what_still_answers_ends_the_wait() -> None:
    world = moved(ready={1})
    assert world.ask() == 1
    world.move(1)
    world.now += SWITCH
    assert (world.ask(), world.wanted) == (1, [2])


def test_a_move_that_nobody_tells_of_is_held_no_longer_than_a_lease_more() -> None:
    world = moved(ready={1}, told=False)
    answers = []
    while (answer := world.ask()) == 1:
        answers.append(answer)
        world.now += 0.5
    assert (LEASE + SWITCH) - 1 <= len(answers) * 0.5 <= LEASE + SWITCH


def test_after_a_long_silence_nothing_is_held() -> None:
    world = moved(ready={1}, told=False)
    world.now += LEASE + SWITCH
    assert world.ask() == 2


def test_a_retired_revision_does_not_answer_on() -> None:
    world = moved(ready={1})
    assert world.ask() == 1
    world.cache.withdraw(POLICY, meaning("p", 1).revision.digest)  # type: ignore[union-attr]
    assert world.ask() == 2


def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    world = World(ready={1})
    assert world.ask() == 1
    world.cache.forget(POLICY, at=world.now)
    slow, asked_at = world.cache.ask(), world.now
    world.now += 0.1
    assert world.ask() == 1
    world.move(2)
    world.ready.add(2)
    assert world.ask() == 2
    assert world.answer(slow, asked_at=asked_at, number=1) in (1, 2)
    assert world.ask() == 2


def test_another_policy_of_the_same_name_inherits_nothing() -> None:
    world = World(ready={1})
    assert world.ask() == 1
    other = meaning("other", 7)
    world.cache.forget(POLICY, at=world.now)
    found = world.cache.put(KEY, other, ticket=world.cache.ask(), asked_at=world.now, now=world.now)
    assert found == Found(answer=other)


NUMBERS = st.integers(1, 4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.floats(0.1, 12.0)),
        st.tuples(st.just("move"), NUMBERS),
        st.tuples(st.just("silent move"), NUMBERS),
        st.tuples(st.just("load"), NUMBERS),
        st.tuples(st.just("evict"), NUMBERS),
        st.tuples(st.just("retire"), NUMBERS),
        st.tuples(st.just("ask"), st.none()),
        st.tuples(st.just("ask"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_what_answers_is_or_was_lately_what_it_means(steps: list[tuple[str, float | int | None]]) -> None:
    world, all_told, answered_truth = World(), True, False
    for step, value in steps:
        number = int(value or 0)
        match step:
            case "wait":
                world.now += float(value or 0)
            case "move" | "silent move" if number not in world.retired:
                answered_truth &= number == world.truth
                world.move(number, told=step == "move")
                # The next word about the policy makes up for what was not told.
                all_told = step == "move"
            case "load":
                world.ready.add(number)
            case "evict":
                world.ready.discard(number)
            case "retire" if number != world.truth:
                world.retired.add(number)
                world.cache.withdraw(POLICY, meaning("p", number).revision.digest)  # type: ignore[union-attr]
            case "ask":
                answer = world.ask()
                check(world, answer, all_told=all_told, answered_truth=answered_truth)
                answered_truth |= answer == world.truth
        assert len(world.cache) <= 1


def check(world: World, answer: int, *, all_told: bool, answered_truth: bool) -> None:
    meant = [at for at, number in world.moves if number == answer]
    assert meant, "it was never the name's target"
    ends = [at for (_, number), (at, _) in pairwise(world.moves) if number == answer]
    stale_seconds = 0.0 if answer == world.truth else world.now - max(ends)
    assert stale_seconds < LEASE + SWITCH
    if all_told and answer != world.truth:
        assert answer in world.ready
        assert answer not in world.retired
        assert world.truth not in world.ready
        assert not answered_truth, "there is no way back"
