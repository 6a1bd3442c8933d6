"""Who starts next: least served first, a reserve for who runs little, and nothing earned by a pause."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from mint_common.fair_queue import GENERATED_WEIGHT, FairQueue

LONGEST = 12
TENANTS = "abcd"


class Engine:
    """Steps: every sequence with a seat generates a token; ``lengths`` are what is left of each."""

    def __init__(self, *, seats: int, reserve: int) -> None:
        self.queue: FairQueue[tuple[str, int, int]] = FairQueue(seats=seats, reserve=reserve)
        self.running: list[tuple[str, int]] = []
        self.tokens: Counter[str] = Counter()
        self._number = 0

    def send(self, tenant: str, *lengths: int) -> None:
        for length in lengths:
            self._number += 1
            self.queue.push(tenant, (tenant, self._number, length))

    def step(self) -> None:
        self.queue.set_running(Counter(tenant for tenant, _ in self.running))
        while (found := self.queue.next()) is not None:
            tenant, (_, _, length) = found
            self.queue.start(tenant)
            self.running.append((tenant, length))
        for tenant, _ in self.running:
            self.tokens[tenant] += 1
            self.queue.charge(tenant, GENERATED_WEIGHT)
        self.running = [(tenant, left - 1) for tenant, left in self.running if left > 1]

    def seated(self) -> Mapping[str, int]:
        return Counter(tenant for tenant, _ in self.running)


lengths = st.lists(st.integers(1, LONGEST), min_size=1, max_size=30)


@given(lengths, st.integers(1, 8), st.integers(1, 4))
def test_a_tenant_alone_has_every_seat_and_none_of_the_reserve(work, seats, reserve) -> None:
    engine = Engine(seats=seats, reserve=min(seats, reserve))
    engine.send("a", *work)
    while len(engine.queue) or engine.running:
        waited = len(engine.queue) + len(engine.running)
        before = engine.tokens["a"]
        engine.step()
        assert engine.tokens["a"] - before == min(seats, waited), "no seat stays empty while one waits"


@given(
    lengths,
    lengths,
    st.integers(1, 8),
)
def test_of_two_that_wait_all_the_time_neither_is_served_much_more(mine, others, seats) -> None:
    reserve = max(1, seats // 8)
    engine = Engine(seats=seats, reserve=reserve)
    most = (seats + reserve) * LONGEST
    for _ in range(60):
        for tenant, work in (("a", mine), ("b", others)):
            while sum(each == tenant for each, _, _ in engine.queue) < seats + reserve:
                engine.send(tenant, *work)
        engine.step()
        assert abs(engine.tokens["a"] - engine.tokens["b"]) <= 2 * most


@given(st.integers(1, 64), st.integers(20, 200))
def test_a_newcomer_starts_in_the_next_step_whoever_fills_the_engine(seats, waiting) -> None:
    engine = Engine(seats=seats, reserve=max(1, seats // 8))
    engine.send("a", *[LONGEST] * (seats + waiting))
    engine.step()
    engine.send("b", 1)
    engine.step()
    assert engine.tokens["b"] == 1


@given(st.data())
def test_everybody_who_waits_is_served_in_bounded_steps(data) -> None:
    engine = Engine(seats=4, reserve=1)
    for _ in range(data.draw(st.integers(1, 20))):
        engine.send(data.draw(st.sampled_from(TENANTS)), *data.draw(lengths))
        engine.step()
    owed = sum(length for _, _, length in engine.queue) + sum(left for _, left in engine.running)
    for _ in range(owed + len(engine.queue) + 1):
        engine.step()
    assert not len(engine.queue)
    assert not engine.running


def test_the_reserve_goes_round_newcomers() -> None:
    engine = Engine(seats=64, reserve=8)
    engine.send("a", *[9] * 200)
    engine.step()
    for tenant in ("b", "c", "d", "e"):
        engine.send(tenant, *[9] * 20)
    engine.step()
    seated = engine.seated()
    assert seated["a"] == 64
    assert min(seated[tenant] for tenant in ("b", "c", "d", "e")) >= 1


def test_a_pause_earns_nothing() -> None:
    engine = Engine(seats=4, reserve=1)
    engine.send("a", *[2] * 400)
    for _ in range(50):
        engine.step()
    engine.send("b", *[2] * 400)
    before = engine.tokens["a"]
    for _ in range(40):
        engine.step()
    assert engine.tokens["a"] - before >= 40, "b does not catch up with what a had while b was away"


def test_an_interrupted_sequence_goes_before_its_tenants_others_and_counts_no_more() -> None:
    queue: FairQueue[str] = FairQueue(seats=2, reserve=1)
    queue.push("a", "first")
    queue.push("a", "second")
    queue.start("a")
    queue.push_first("a", "first")
    assert queue.next() == ("a", "first")
    assert queue.running("a") == 0


def test_what_is_forgotten_is_bounded_by_who_is_about() -> None:
    queue: FairQueue[int] = FairQueue(seats=2, reserve=1)
    for number in range(1000):
        tenant = f"t{number}"
        queue.push(tenant, number)
        queue.start(tenant)
        queue.charge(tenant, 10)
        queue.set_running({})
    assert not queue.tenants
    assert len(queue._served) <= 1
