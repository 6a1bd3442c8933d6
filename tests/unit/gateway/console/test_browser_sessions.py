"""Sessions of browsers: what opens them, when they end, and what a form needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Forbidden, Unauthorized
from services.gateway.core.browser_sessions import SESSION_SECONDS, BrowserSessions

SESSIONS = BrowserSessions(secret=b"of the stack")
OTHERS = BrowserSessions(secret=b"of another stack")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200))
def test_a_session_holds_its_key_and_shows_nothing_of_it(key):
    cookie = SESSIONS.seal(key, now=1000.0)
    assert SESSIONS.key_of(cookie, now=1000.0) == key
    assert len(key) < 8 or key not in cookie


def test_a_session_ends_in_time_and_opens_no_other_stack():
    cookie = SESSIONS.seal("tml-key", now=1000.0)
    assert SESSIONS.key_of(cookie, now=1000.0 + SESSION_SECONDS - 1) == "tml-key"
    with pytest.raises(Unauthorized, match="sign in again"):
        SESSIONS.key_of(cookie, now=1000.0 + SESSION_SECONDS + 1)
    with pytest.raises(Unauthorized):
        OTHERS.key_of(cookie, now=1000.0)


@given(st.text(max_size=300))
def test_what_was_not_sealed_opens_nothing(text):
    with pytest.raises(Unauthorized):
        SESSIONS.key_of(text, now=1000.0)


def test_a_changed_cookie_opens_nothing():
    cookie = SESSIONS.seal("tml-key", now=1000.0)
    for at in range(0, len(cookie), 7):
        other = cookie[:at] + ("A" if cookie[at] != "A" else "B") + cookie[at + 1 :]
        with pytest.raises(Unauthorized):
            SESSIONS.key_of(other, now=1000.0)


def test_a_change_needs_the_token_of_its_own_session():
    one, other = SESSIONS.seal("tml-key", now=1.0), SESSIONS.seal("tml-key", now=2.0)
    SESSIONS.check_form("GET", one, "")
    SESSIONS.check_form("POST", one, SESSIONS.form_token(one))
    for token in ("", "é", SESSIONS.form_token(other), OTHERS.form_token(one)):
        with pytest.raises(Forbidden):
            SESSIONS.check_form("POST", one, token)
