"""Which sessions a search finds, what may be attached to them, and how many bytes a key may have open."""

from dataclasses import replace

import pytest

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from services.gateway.core.tinker.records import ALIVE_SECONDS, ClientSession
from services.gateway.core.tinker.session_search import (
    SearchBody,
    SearchCursor,
    SearchOwner,
    WantedStatus,
    check_search,
    is_found,
    place_of,
    status_of,
)
from services.gateway.core.tinker.texts import check_metadata, check_tags, check_text

SESSION = ClientSession(
    session_id="ses_a",
    tenant_id=TenantId("ten"),
    project_id="p",
    display_name="Big Run",
    tags=(),
    metadata={"a": "1", "b": "2"},
    sdk_version="",
    created_at=0.0,
    seen_at=100.0,
)


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        ({}, True),
        ({"display_name": "run BIG"}, True),
        ({"display_name": "run small"}, False),
        ({"display_name": "small", "session_id": "ses_a"}, True),
        ({"session_id": "ses_b"}, False),
        ({"user_metadata": {"a": "1"}}, True),
        ({"user_metadata": {"a": "1", "c": "1"}}, False),
        ({"project_ids": ["p", "q"]}, True),
        ({"project_ids": ["q"]}, False),
        ({"statuses": [WantedStatus(type="active")]}, True),
        ({"statuses": [WantedStatus(type="client_finished")]}, False),
    ],
)
def test_every_condition_of_a_search_holds(wish, found):
    assert is_found(SESSION, check_search(SearchBody(**wish)), now=101.0) is found


def test_a_page_begins_behind_any_time_there_is():
    session_id = f"ses_{'a' * 26}"
    for time, seconds in (
        ("0001-01-01", -62135596800.0),
        ("0001-01-01T00:00:00+23:59", -62135683140.0),
        ("9999-12-31T23:59:59-23:59", 253402387139.0),
    ):
        cursor = SearchCursor(last_created_at=time, last_session_id=session_id)
        assert place_of(cursor) == (seconds, session_id)
    with pytest.raises(InvalidField, match=r"cursor\.last_created_at"):
        place_of(SearchCursor(last_created_at="soon", last_session_id=session_id))


def test_a_session_is_active_until_it_ends_or_falls_silent():
    assert status_of(SESSION, now=100.0) == {"type": "active"}
    assert status_of(SESSION, now=100.0 + ALIVE_SECONDS) is None
    ended = replace(SESSION, finish="errored", finish_detail="x")
    reason = {"type": "errored"}
    assert status_of(ended, now=100.0) == {"type": "client_finished", "reason": reason, "detail": "x"}
    wanted = SearchBody(statuses=[WantedStatus(type="client_finished", reasons=["success"])])
    assert not is_found(ended, wanted, now=100.0)


@pytest.mark.parametrize(
    "body",
    [
        SearchBody(limit=0),
        SearchBody(limit=201),
        SearchBody(owner=SearchOwner(type="user")),
        SearchBody(display_name=""),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(body):
    with pytest.raises(InvalidField):
        check_search(body)


def test_metadata_becomes_text():
    assert check_metadata("m", {"a": "x", "b": [1, {"c": None}], "d": None}) == {
        "a": "x",
        "b": '[1,{"c":null}]',
    }
    assert check_metadata("m", None) == {}


@pytest.mark.parametrize(
    "check",
    [
        lambda: check_metadata("m", {"a": 17_000 * "x"}),
        lambda: check_metadata("m", {"\x00": "x"}),
        lambda: check_tags("t", 101 * ["x"]),
        lambda: check_tags("t", ["\x00"]),
        lambda: check_text("t", 1001 * "x"),
    ],
)
def test_what_no_database_should_get_is_refused(check):
    with pytest.raises(InvalidField):
        check()
