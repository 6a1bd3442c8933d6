"""Which scopes a key holds, and what it is told when it lacks one."""

import pytest

from mint_common.authority import Authority
from mint_common.catalog import Scope
from mint_common.errors import Forbidden
from mint_common.ids import TenantId

OWN, OTHER = TenantId("ten_a"), TenantId("ten_b")


def key(*scopes: Scope) -> Authority:
    return Authority(tenant_id=OWN, key_id="key_1", scopes=frozenset(scopes))


def test_missing_scope_is_named() -> None:
    with pytest.raises(Forbidden, match=r"'train'.*this key has infer, read"):
        key("read", "infer").check("train")


def test_admin_includes_all_but_the_operators() -> None:
    for scope in ("read", "infer", "train", "admin"):
        key("admin").check(scope)
    with pytest.raises(Forbidden):
        key("admin").check("operator")


def test_an_operator_has_no_more_than_that() -> None:
    key("operator").check("operator")
    for scope in ("read", "infer", "train", "admin"):
        with pytest.raises(Forbidden):
            key("operator").check(scope)


def test_an_admin_grants_what_admin_includes() -> None:
    key("admin").check_grant(("read", "infer", "train"), tenant_id=OWN)
    for wanted, tenant_id in ((("operator",), OWN), (("read",), OTHER)):
        with pytest.raises(Forbidden):
            key("admin").check_grant(wanted, tenant_id=tenant_id)


def test_an_operator_grants_other_tenants_what_it_holds_itself() -> None:
    key("operator", "admin").check_grant(("admin", "read"), tenant_id=OTHER)
    with pytest.raises(Forbidden, match="lacks admin, infer, read, train"):
        key("operator").check_grant(("admin",), tenant_id=OTHER)
