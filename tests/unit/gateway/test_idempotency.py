"""One key and body is one request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import InvalidField
from mint_common.ids import TenantId
from services.gateway.core.idempotency import IdempotencyConflict, check_same_body, identify

T1, T2 = TenantId("t1"), TenantId("t2")


def test_same_key_gives_the_same_job_and_another_tenant_another():
    first = identify(T1, key="k", body={"a": 1, "b": 2}, fresh_id="req_1")
    again = identify(T1, key="k", body={"b": 2, "a": 1}, fresh_id="req_2")
    other = identify(T2, key="k", body={"a": 1, "b": 2}, fresh_id="req_3")
    assert first == again
    assert other.job_id != first.job_id


def test_without_a_key_every_request_is_its_own():
    first = identify(T1, key=None, body={}, fresh_id="req_1")
    second = identify(T1, key=None, body={}, fresh_id="req_2")
    assert first.cause == "req_1"
    assert first.job_id != second.job_id


def test_another_body_under_the_same_key_is_a_conflict():
    identity = identify(T1, key="k", body={"a": 1}, fresh_id="req_1")
    check_same_body(identity, identity.body_sha256)
    with pytest.raises(IdempotencyConflict) as refused:
        check_same_body(identity, "0" * 64)
    assert refused.value.http_status == 422


@pytest.mark.parametrize("key", ["", "k" * 256, "a\x00b"])
def test_an_unusable_key_is_refused(key):
    with pytest.raises(InvalidField):
        identify(T1, key=key, body={}, fresh_id="req_1")


@given(a=st.dictionaries(st.text(), st.integers()), b=st.dictionaries(st.text(), st.integers()))
def test_bodies_have_equal_hashes_only_when_they_are_equal(a, b):
    one = identify(T1, key="k", body=dict(a), fresh_id="r")
    two = identify(T1, key="k", body=dict(b), fresh_id="r")
    assert (one.body_sha256 == two.body_sha256) == (a == b)
