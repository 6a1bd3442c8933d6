"""The choice of an engine: nearest first, stable by digest, away from what is hot."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mint_common.client.routing import Nearness, Option, order_engines

NAMES = [f"http://10.0.0.{number}:1" for number in range(12)]
KEYS = [f"sha256:{number:064x}" for number in range(600)]

options = st.lists(
    st.builds(
        Option,
        name=st.sampled_from(NAMES),
        nearness=st.sampled_from(Nearness),
        load=st.integers(0, 100),
    ),
    unique_by=lambda option: option.name,
    min_size=1,
)


@given(options, st.sampled_from(KEYS), st.randoms())
def test_every_gateway_orders_all_engines_alike(engines, key, rng) -> None:
    ordered = list(order_engines(engines, key))
    assert sorted(option.name for option in ordered) == sorted(option.name for option in engines)
    rng.shuffle(engines)
    assert list(order_engines(engines, key)) == ordered


@given(options, st.sampled_from(KEYS))
def test_the_nearest_engine_answers_unless_it_is_hot(engines, key) -> None:
    idlest = min(option.load for option in engines)
    first = order_engines(engines, key, hot_load=16)[0]
    cool = [option for option in engines if option.load < 16 or option.load <= 2 * idlest]
    assert first in cool
    assert first.nearness == max(option.nearness for option in cool)


def quiet(count: int) -> list[Option]:
    return [Option(name=name) for name in NAMES[:count]]


def test_cold_digests_spread_over_the_engines() -> None:
    counts = Counter(order_engines(quiet(8), key)[0].name for key in KEYS)
    assert len(counts) == 8
    assert max(counts.values()) < 2 * len(KEYS) / 8


def test_a_lost_engine_moves_only_its_own_digests() -> None:
    engines = quiet(8)
    before = {key: order_engines(engines, key)[0].name for key in KEYS}
    after = {key: order_engines(engines[1:], key)[0].name for key in KEYS}
    moved = [key for key in KEYS if before[key] != after[key]]
    assert moved
    assert all(before[key] == engines[0].name for key in moved)


def test_a_slot_beats_host_memory_and_that_the_disk() -> None:
    engines = [Option(name=name, nearness=near) for name, near in zip(NAMES, Nearness, strict=False)]
    ordered = [option.nearness for option in order_engines(engines, KEYS[0])]
    assert ordered == [Nearness.SLOT, Nearness.HOST, Nearness.STORED, Nearness.ABSENT]


def test_a_hot_engine_spills_to_the_next_nearest_and_takes_over_again_when_it_cools() -> None:
    hot = Option(name="hot", nearness=Nearness.SLOT, load=40)
    others = [Option(name="far", load=1), Option(name="near", nearness=Nearness.HOST, load=3)]
    assert [option.name for option in order_engines([hot, *others], KEYS[0])] == ["near", "far", "hot"]
    cool = Option(name="hot", nearness=Nearness.SLOT, load=6)
    assert order_engines([cool, *others], KEYS[0])[0] is cool


def test_when_all_are_busy_nothing_spills() -> None:
    engines = [Option(name="home", nearness=Nearness.SLOT, load=50), Option(name="other", load=40)]
    assert order_engines(engines, KEYS[0])[0].name == "home"


def test_the_bare_base_goes_to_the_idlest() -> None:
    engines = [Option(name="a", load=3), Option(name="b", load=1), Option(name="c", load=2)]
    assert [option.name for option in order_engines(engines, "")] == ["b", "c", "a"]
