"""Which request may run after an engine died under it, and when."""

import pytest

from mint_common.client.suspects import (
    APART_SECONDS,
    MOST_OF_A_TENANT,
    REMEMBERED_SECONDS,
    RESTORED_SECONDS,
    RequestKey,
    Suspects,
    request_key,
)
from mint_common.errors import RequestEndsEngines, RequestHeldBack
from mint_common.ids import TenantId
from mint_common.testing.factories import BASE

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
    suspects.begin(key(), is_restarting=False, now=1.0)
    suspects.end(key(), is_answered=False)
    suspects.begin(key(), is_restarting=True, now=RESTORED_SECONDS)


def test_suspects_run_one_after_another() -> None:
    suspects = Suspects()
    for content in (b"1", b"2", b"3"):
        suspects.note_death(key(content), now=0.0)
    suspects.begin(key(b"1"), is_restarting=False, now=1.0)
    with pytest.raises(RequestHeldBack) as held:
        suspects.begin(key(b"2"), is_restarting=False, now=1.0)
    assert held.value.retry_after_seconds == 1
    suspects.end(key(b"1"), is_answered=True)
    suspects.begin(key(b"2"), is_restarting=False, now=1.1)
    suspects.begin(key(b"3"), is_restarting=False, now=1.1 + APART_SECONDS)
    suspects.begin(key(b"1"), is_restarting=True, now=1.2)  # it was answered: it is none any more


def test_the_second_death_refuses_a_request_for_some_minutes() -> None:
    suspects = Suspects()
    for now in (0.0, 30.0):
        suspects.note_death(key(), now=now)
    with pytest.raises(RequestEndsEngines) as refused:
        suspects.begin(key(), is_restarting=False, now=40.0)
    assert (refused.value.deaths, refused.value.seconds) == (2, REMEMBERED_SECONDS - 10)
    assert (refused.value.http_status, refused.value.retryable) == (422, False)
    suspects.begin(key(), is_restarting=False, now=30.0 + REMEMBERED_SECONDS)
    assert not suspects.has_any(TENANT)


def test_what_one_tenant_s_requests_do_makes_nothing_of_another_s_forgotten() -> None:
    suspects = Suspects()
    suspects.note_death(key(tenant=OTHER), now=0.0)
    for number in range(2 * MOST_OF_A_TENANT):
        suspects.note_death(key(b"%d" % number), now=0.0)
    assert len(suspects._tenants[TENANT]) == MOST_OF_A_TENANT
    with pytest.raises(RequestHeldBack):
        suspects.begin(key(tenant=OTHER), is_restarting=True, now=0.0)
