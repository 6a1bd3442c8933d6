"""Which request may run after an engine died under it, and when."""

import pytest

from mint_common.client.suspects import (
    APART_SECONDS,
    BLAMED_SECONDS,
    MAX_OF_A_TENANT,
    REMEMBERED_SECONDS,
    RESTORED_SECONDS,
    TOGETHER,
    RequestKey,
    SuspectRun,
    Suspects,
    request_key,
)
from mint_common.errors import RequestEndsEngines, RequestHeldBack
from mint_common.ids import TenantId
from tests.testing.factories import BASE

TENANT, OTHER = TenantId("ten_a"), TenantId("ten_b")


def key(content: bytes = b"x", *, tenant: TenantId = TENANT) -> RequestKey:
    return request_key(tenant, BASE, content)


def test_a_request_that_no_engine_died_under_always_runs() -> None:
    suspects = Suspects()
    suspects.begin(key(), is_restarting=True, now=0.0)
    suspects.note_death(key(b"another"), now=0.0)
    suspects.note_death(key(tenant=OTHER), now=0.0)
    suspects.begin(key(), is_restarting=True, now=0.0)


def test_parts_of_a_request_are_told_apart() -> None:
    assert request_key(TENANT, BASE, b"a", b"bc") != request_key(TENANT, BASE, b"ab", b"c")


def test_a_suspect_waits_for_the_engine_that_died_but_not_for_ever() -> None:
    suspects = Suspects()
    suspects.note_death(key(), now=0.0)
    with pytest.raises(RequestHeldBack) as held:
        suspects.begin(key(), is_restarting=True, now=1.0)
    assert held.value.retry_after_seconds == RESTORED_SECONDS - 1
    suspects.end(begun(suspects, key(), now=1.0))
    suspects.begin(key(), is_restarting=True, now=RESTORED_SECONDS)


def begun(suspects: Suspects, request: RequestKey, *, now: float) -> SuspectRun:
    """Return the run of a suspect."""
    run = suspects.begin(request, is_restarting=False, now=now)
    assert run is not None
    return run


def test_suspects_begin_in_groups() -> None:
    suspects = Suspects()
    keys = [key(b"%d" % number) for number in range(2 * TOGETHER[0])]
    for each in keys:
        suspects.note_death(each, now=0.0)
    runs = [begun(suspects, each, now=1.0) for each in keys[: TOGETHER[0]]]
    with pytest.raises(RequestHeldBack) as held:
        begun(suspects, keys[-1], now=1.0)
    assert held.value.retry_after_seconds == APART_SECONDS
    suspects.end(runs[0])
    suspects.clear(keys[0])
    begun(suspects, keys[-1], now=1.0)
    suspects.begin(keys[0], is_restarting=True, now=1.0)  # it was answered: it is none any more
    begun(suspects, keys[-2], now=1.0 + APART_SECONDS)


def test_of_many_requests_the_one_that_ends_engines_is_isolated() -> None:
    """64 ran when the first engine died, each with a tenth of a second of work: one is refused, no other."""
    suspects, poison, now, deaths = Suspects(), key(b"7"), 0.0, 1
    waiting = [key(b"%d" % number) for number in range(64)]
    for each in waiting:
        suspects.note_death(each, now=now)
    refused: list[RequestKey] = []
    while waiting and now < 60.0:
        now += 0.2
        runs: list[SuspectRun] = []
        for each in waiting:
            try:
                runs.append(begun(suspects, each, now=now))
            except RequestHeldBack:
                continue
            except RequestEndsEngines:
                refused.append(each)
        is_death = any(run.key == poison for run in runs)
        deaths += is_death
        for run in runs:
            suspects.end(run)
            if is_death:
                suspects.note_death(run.key, run, now=now + 0.1)
            else:
                suspects.clear(run.key)
        answered = [] if is_death else [run.key for run in runs]
        waiting = [each for each in waiting if each not in answered and each not in refused]
    assert (refused, waiting) == ([poison], [])
    assert deaths == 1 + len(TOGETHER)


def test_a_death_long_after_a_suspect_began_does_not_refuse_it() -> None:
    """Another tenant's varied poison killed each engine that a group of 20 minutes merely ran on."""
    suspects, now = Suspects(), 0.0
    suspects.note_death(key(), now=now)
    for _ in range(5):
        run = begun(suspects, key(), now=now + 60)
        now += 60 + BLAMED_SECONDS + 1
        suspects.end(run)
        suspects.note_death(key(), run, now=now)
    begun(suspects, key(), now=now)


def test_equal_requests_at_one_death_count_it_once() -> None:
    suspects = Suspects()
    suspects.note_death(key(), now=0.0)
    runs = [begun(suspects, key(), now=1.0) for _ in range(4)]
    for number, run in enumerate(runs):
        suspects.end(run)
        suspects.note_death(key(), run, now=2.0 + number / 100)
    begun(suspects, key(), now=10.0)


def test_a_death_under_a_suspect_alone_refuses_it_for_some_minutes() -> None:
    suspects = Suspects()
    suspects.note_death(key(), now=0.0)
    run = begun(suspects, key(), now=25.0)
    suspects.end(run)
    suspects.note_death(key(), run, now=30.0)
    with pytest.raises(RequestEndsEngines) as refused:
        suspects.begin(key(), is_restarting=False, now=40.0)
    assert (refused.value.deaths, refused.value.seconds) == (2, REMEMBERED_SECONDS - 10)
    assert (refused.value.http_status, refused.value.retryable) == (422, False)
    suspects.begin(key(), is_restarting=False, now=30.0 + REMEMBERED_SECONDS)
    assert not suspects.has_any(TENANT)


def test_what_one_tenant_s_requests_do_makes_nothing_of_another_s_forgotten() -> None:
    suspects = Suspects()
    suspects.note_death(key(tenant=OTHER), now=0.0)
    for number in range(2 * MAX_OF_A_TENANT):
        suspects.note_death(key(b"%d" % number), now=0.0)
    assert len(suspects._tenants[TENANT]) == MAX_OF_A_TENANT
    with pytest.raises(RequestHeldBack):
        suspects.begin(key(tenant=OTHER), is_restarting=True, now=0.0)
