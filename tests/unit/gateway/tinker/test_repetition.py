"""Requests without a number: one key is one place and one session, whoever repeats it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.ids import PolicyId, TenantId
from mint_common.training import UNNUMBERED
from services.gateway.core.tinker.ids import OperationId, check_session_id, parse_request_id
from services.gateway.core.tinker.repetition import keyed_session_id, request_key, unnumbered_place


def test_the_key_is_the_sdk_s_or_ours_or_else_a_fresh_one():
    assert request_key({"x-idempotency-key": "a"}, fresh="f") == "a"
    assert request_key({"idempotency-key": "b", "x-idempotency-key": "a"}, fresh="f") == "b"
    assert request_key({}, fresh="f") == "f"
    for bad in ("", "x" * 256, "a\tb"):
        with pytest.raises(InvalidField, match="X-Idempotency-Key"):
            request_key({"x-idempotency-key": bad}, fresh="f")


@given(st.text(max_size=255))
def test_a_place_of_a_key_fits_the_database_and_a_request_id(key: str):
    place = unnumbered_place(key)
    assert UNNUMBERED <= place < 2**63
    assert unnumbered_place(key) == place
    told = OperationId(kind="distill", policy_id=PolicyId(f"pol_{26 * 'a'}"), seq=place)
    assert parse_request_id(str(told)) == told


def test_a_session_of_a_key_is_its_tenant_s():
    mine, theirs = (keyed_session_id(TenantId(tenant), "k") for tenant in ("a", "b"))
    assert check_session_id(mine) == mine != theirs
