"""Bytes of a tenant's operations that wait."""

import pytest

from mint_common.errors import Overloaded
from mint_common.ids import PolicyId, TenantId
from services.trainer.handlers.backlog import TENANT_BYTES, Backlog

A, B = TenantId("a"), TenantId("b")
POLICY = PolicyId("policy_a")
PART = TENANT_BYTES // 4


def test_a_tenant_s_operations_are_bounded_in_bytes_until_they_are_committed() -> None:
    backlog = Backlog()
    for seq in range(4):
        with backlog.admitted(A, PART):
            pass
        backlog.note(A, POLICY, seq, PART)
    with pytest.raises(Overloaded) as full, backlog.admitted(A, 1):
        pass
    assert full.value.http_status == 429
    with backlog.admitted(B, PART):
        pass
    backlog.end(A, POLICY, 0)
    with backlog.admitted(A, PART), pytest.raises(Overloaded), backlog.admitted(A, 1):
        pass
    with backlog.admitted(A, PART):
        pass


def test_one_operation_is_always_taken_and_nothing_is_left_of_what_is_refused_or_repeated() -> None:
    backlog = Backlog()
    with pytest.raises(ValueError, match="not stored"), backlog.admitted(A, 2 * TENANT_BYTES):
        raise ValueError("not stored")
    for _ in range(3):
        backlog.note(A, POLICY, 1, PART)
    backlog.end(A, POLICY, 1)
    backlog.end(A, POLICY, 1)
    assert (backlog._sizes, backlog._waiting.held) == ({}, 0)
