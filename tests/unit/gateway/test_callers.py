"""Keys in headers, and how long a verified one is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.authority import Authority, Caller
from mint_common.errors import Unauthorized
from mint_common.ids import TenantId
from services.gateway.core.callers import KeyMemory, choose_key


def _caller(name: str = "ci") -> Caller:
    authority = Authority(tenant_id=TenantId("t1"), key_id="key_1", scopes=frozenset({"read"}))
    return Caller(authority=authority, name=name)


def test_key_comes_from_either_header_and_from_both_when_they_agree():
    assert choose_key(["tml-a"]) == "tml-a"
    assert choose_key(["tml-a", " tml-a", ""]) == "tml-a"


def test_different_keys_in_one_request_are_unauthorized():
    with pytest.raises(Unauthorized, match="different API keys"):
        choose_key(["tml-a", "tml-b"])


@pytest.mark.parametrize("nothing", [[], [""], ["  ", ""]])
def test_a_request_without_a_key_is_unauthorized(nothing):
    with pytest.raises(Unauthorized, match="No API key"):
        choose_key(nothing)


def test_verified_key_is_believed_until_its_time_is_over():
    keys = KeyMemory(ttl_seconds=10, capacity=5)
    keys.put("a", _caller(), now=100.0)
    assert keys.get("a", now=109.9) == _caller()
    assert keys.get("a", now=110.0) is None
    assert keys.get("b", now=100.0) is None


@given(names=st.lists(st.text(min_size=1, max_size=3), max_size=50), capacity=st.integers(1, 8))
def test_memory_keeps_only_the_newest_keys(names, capacity):
    keys = KeyMemory(ttl_seconds=10, capacity=capacity)
    for name in names:
        keys.put(name, _caller(name), now=0.0)
    newest = list(dict.fromkeys(reversed(names)))
    assert [name for name in newest if keys.get(name, now=0.0)] == newest[:capacity]
