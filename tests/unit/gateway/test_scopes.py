"""Which scopes a key has, and what it is told when it lacks one."""

import pytest

from mint_common.errors import Forbidden
from services.gateway.core.scopes import check_scope


def test_missing_scope_is_named() -> None:
    with pytest.raises(Forbidden, match=r"'train'.*this key has infer, read"):
        check_scope({"read", "infer"}, "train")


def test_admin_includes_all_but_the_operators() -> None:
    for scope in ("read", "infer", "train", "admin"):
        check_scope({"admin"}, scope)
    with pytest.raises(Forbidden):
        check_scope({"admin"}, "operator")


def test_an_operator_has_no_more_than_that() -> None:
    check_scope({"operator"}, "operator")
    for scope in ("read", "infer", "train", "admin"):
        with pytest.raises(Forbidden):
            check_scope({"operator"}, scope)
