"""Episodes in flight by the use of KV caches: within bounds, towards a full cache, one engine by itself."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.generation import FULL_CACHE, CacheUse
from mint_common.ids import EngineId
from services.rollout.core.episode_limits import (
    CUT,
    LEAST,
    ROOMY,
    SETTLE_SECONDS,
    STEP,
    EngineLimit,
    EpisodeCounts,
    base_limit,
    next_limits,
)

MOST = 256
A, B = EngineId("a"), EngineId("b")
ROUND = 3.0

uses = st.none() | st.builds(
    CacheUse,
    share=st.floats(0, 1),
    running=st.integers(0, 300),
    waiting=st.integers(0, 300),
    preemptions=st.integers(0, 50),
)
reports = st.dictionaries(st.sampled_from([A, B, EngineId("c")]), uses)
limits = st.dictionaries(
    st.sampled_from([A, B, EngineId("c")]),
    st.builds(
        EngineLimit,
        episodes=st.floats(LEAST, MOST),
        preemptions=st.integers(0, 50),
        cut_at=st.floats(-100, 0) | st.just(-float("inf")),
    ),
)
counts = st.builds(
    EpisodeCounts, running=st.integers(0, 400), waiting=st.integers(0, 400), most=st.just(MOST)
)


def use(share: float, *, preemptions: int = 0, waiting: int = 0) -> CacheUse:
    return CacheUse(share=share, running=10, waiting=waiting, preemptions=preemptions)


@given(limits, st.lists(st.tuples(reports, counts), max_size=20))
def test_limits_stay_within_their_bounds_and_grow_by_steps(before, rounds) -> None:
    for number, (told, each) in enumerate(rounds, start=1):
        after = next_limits(before, told, each, now=number * ROUND)
        assert after.keys() == told.keys()
        assert all(LEAST <= limit.episodes <= MOST for limit in after.values())
        assert LEAST <= base_limit(after, most=MOST) <= MOST
        for engine_id, limit in after.items():
            highest = before[engine_id].episodes + STEP if engine_id in before else MOST
            assert limit.episodes <= highest or told[engine_id] is None
        before = after


@given(limits, reports, uses, counts)
def test_what_happens_to_one_engine_changes_no_other_s_limit(before, told, fault, each) -> None:
    rest = {engine_id: one for engine_id, one in told.items() if engine_id != A}
    for other in (rest, {**rest, A: fault}):
        after = next_limits(before, other, each, now=1.0)
        expected = next_limits(before, told, each, now=1.0)
        assert {name: after[name] for name in rest} == {name: expected[name] for name in rest}


def settled(capacity: int, start: float, wanted: int, rounds: int = 120) -> list[tuple[float, int]]:
    """Return the shares of an engine's blocks and the episodes over rounds; each episode takes 1/capacity.

    A fifth of the episodes end in a round; what has no room is preempted.
    """
    limit = {A: EngineLimit(episodes=start)}
    running, preemptions = min(wanted, base_limit(limit, most=MOST)), 0
    seen = []
    for number in range(rounds):
        share = min(1.0, running / capacity)
        preemptions += max(0, running - capacity)
        told = {A: CacheUse(share=share, running=running, waiting=0, preemptions=preemptions)}
        waiting = max(0, wanted - running)
        now = number * ROUND
        limit = next_limits(limit, told, EpisodeCounts(running=running, waiting=waiting, most=MOST), now=now)
        stay = running - running // 5
        running = max(stay, min(wanted, base_limit(limit, most=MOST)))
        seen.append((share, running))
    return seen


@given(st.integers(40, 400), st.floats(LEAST, MOST))
def test_an_engine_that_is_always_asked_for_more_ends_with_a_cache_that_is_used_and_not_full(
    capacity, start
) -> None:
    for share, _ in settled(capacity, start, wanted=1000)[-20:]:
        assert min(ROOMY, MOST / capacity) - 1e-9 <= share < FULL_CACHE


@given(st.integers(4, 39))
def test_in_a_small_cache_episodes_stay_near_what_it_holds(capacity) -> None:
    for _, running in settled(capacity, MOST, wanted=1000)[-20:]:
        assert running <= max(LEAST, capacity + STEP)


def moved(told: CacheUse | None, *, running: int = 100, waiting: int = 0, cut_at: float = -1e9) -> float:
    before = {A: EngineLimit(episodes=100, cut_at=cut_at)}
    each = EpisodeCounts(running=running, waiting=waiting, most=MOST)
    return next_limits(before, {A: told}, each, now=100.0)[A].episodes


def test_a_full_cache_or_a_preemption_cuts_what_runs_and_once_until_it_has_ended() -> None:
    for told in (use(FULL_CACHE), use(0.2, preemptions=1)):
        assert moved(told) == CUT * 100
        assert moved(told, running=50) == CUT * 50
        assert moved(told, running=101) == 100, "more run than may: an earlier cut has not taken effect"
        assert moved(told, cut_at=101.0 - SETTLE_SECONDS) == 100
        assert moved(told, running=0) == 100, "it is full of others' work"
        assert moved(told, running=9) == LEAST


def test_a_limit_grows_only_while_episodes_wait_for_it_and_the_engine_has_room() -> None:
    assert moved(use(0.2), waiting=1) == 100 + STEP
    assert moved(use(0.2)) == 100
    assert moved(use(0.8), waiting=1) == 100
    assert moved(use(0.2, waiting=6), waiting=1) == 100, "they would wait at the engine"


def test_an_engine_that_does_not_say_or_starts_again_has_the_service_s_limit_or_keeps_its_own() -> None:
    assert moved(None) == MOST
    assert base_limit({}, most=MOST) == MOST
    before, each = (
        {A: EngineLimit(episodes=100, preemptions=7)},
        EpisodeCounts(running=100, waiting=0, most=MOST),
    )
    after = [
        next_limits(before, {A: use(0.2, preemptions=count)}, each, now=100.0)[A].episodes
        for count in (0, 7, 8)
    ]
    assert after == [100, 100, CUT * 100], "a count that is lower is of a new start"
