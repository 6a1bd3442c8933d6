"""The choice of an engine: nearest first, stable by digest, away from what is hot."""

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mint_common.client.routing import BUSY_LOAD, MAX_SHARE, Nearness, Option, order_engines

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


def test_of_engines_with_the_adapter_in_memory_the_one_that_knows_the_prompt_answers() -> None:
    knows = Option(name="knows", nearness=Nearness.HOST, known_bytes=512, load=3, tokens=3000)
    others = [Option(name="slot", nearness=Nearness.SLOT), Option(name="knows-less", nearness=Nearness.SLOT)]
    assert order_engines([*others, knows], KEYS[0])[0] is knows
    absent = Option(name="absent", known_bytes=10_000)
    assert order_engines([*others, knows, absent], KEYS[0])[0] is knows, "a load costs more"
    base = [Option(name="idle"), Option(name="knows", known_bytes=512, load=3, tokens=300)]
    assert order_engines(base, "")[0].name == "knows"


def test_an_engine_with_more_than_its_share_of_the_tokens_loses_ties_alone() -> None:
    more = Option(name="more", nearness=Nearness.SLOT, known_bytes=4096, load=8, tokens=14_000)
    equal = Option(name="equal", nearness=Nearness.HOST, load=6, tokens=8000)
    assert [each.name for each in order_engines([more, equal], KEYS[0])] == ["more", "equal"]
    fuller = Option(name="more", nearness=Nearness.SLOT, known_bytes=4096, load=8, tokens=15_000)
    assert [each.name for each in order_engines([fuller, equal], KEYS[0])] == ["equal", "more"]
    far = Option(name="far", nearness=Nearness.STORED)
    assert [each.name for each in order_engines([fuller, far], KEYS[0])] == ["more", "far"]


def test_a_nearly_idle_engine_never_has_more_than_its_share() -> None:
    only = Option(name="only", nearness=Nearness.SLOT, known_bytes=4096, load=3, tokens=90_000)
    assert order_engines([only, *quiet(3)], KEYS[0])[0] is only


@given(options, st.sampled_from(KEYS))
def test_bounded_loads_the_first_engine_in_memory_is_within_its_share_unless_all_near_ones_exceed_it(
    engines, key
) -> None:
    engines = [replace(each, tokens=1000 * each.load, known_bytes=100 * each.load) for each in engines]
    first = order_engines(engines, key, hot_load=10**9)[0]
    limit = MAX_SHARE * sum(each.tokens for each in engines) / len(engines)
    in_memory = [each for each in engines if each.nearness >= Nearness.HOST]
    if any(each.tokens <= limit for each in in_memory):
        assert first.tokens <= max(limit, 1000 * BUSY_LOAD)


def test_of_engines_with_the_adapter_in_memory_one_whose_cache_has_room_comes_first() -> None:
    full = Option(name="full", nearness=Nearness.SLOT, kv_share=0.95, load=1)
    filling = Option(name="filling", nearness=Nearness.SLOT, kv_share=0.8, load=2)
    roomy = Option(name="roomy", nearness=Nearness.SLOT, kv_share=0.3, load=3)
    for key in (*KEYS[:20], ""):
        ordered = [option.name for option in order_engines([full, filling, roomy], key)]
        assert ordered == ["roomy", "filling", "full"]


def test_a_full_cache_moves_no_load_of_an_adapter_and_no_known_prompt() -> None:
    for key in KEYS[:20]:
        engines = quiet(4)
        first = order_engines(engines, key)[0]
        filled = [replace(each, kv_share=0.95 if each is first else 0.1) for each in engines]
        assert order_engines(filled, key)[0].name == first.name
    read = Option(name="read", nearness=Nearness.SLOT, known_bytes=100, kv_share=0.95)
    assert order_engines([Option(name="new", nearness=Nearness.SLOT), read], KEYS[0])[0] is read


@given(options, st.sampled_from(KEYS), st.floats(0, 0.7), st.floats(0, 0.7))
def test_small_changes_of_roomy_caches_change_no_order(engines, key, one, other) -> None:
    names = [
        [each.name for each in order_engines([replace(e, kv_share=share) for e in engines], key)]
        for share in (one, other)
    ]
    assert names[0] == names[1]
