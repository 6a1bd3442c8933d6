"""Which scope each route takes, and that every route of the API has one on purpose."""

import pytest

from mint_common.catalog import Scope
from mint_common.errors import Forbidden
from services.gateway.core.scopes import check_scope, scope_of


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/mint/v1/policies", "read"),
        ("GET", "/mint/v1/events", "read"),
        ("GET", "/v1/models", "read"),
        ("POST", "/v1/chat/completions", "infer"),
        ("POST", "/mint/v1/policies", "train"),
        ("POST", "/mint/v1/policies/p/revisions", "train"),
        ("PUT", "/mint/v1/policies/p/aliases/prod", "train"),
        ("POST", "/mint/v1/policies/p/aliases/prod/rollback", "train"),
        ("POST", "/mint/v1/policies/p/aliases/prod/protect", "admin"),
        ("GET", "/mint/v1/policies/p/rules", "read"),
        ("POST", "/mint/v1/policies/p/rules", "admin"),
        ("DELETE", "/mint/v1/policies/p/rules/r", "admin"),
        ("GET", "/mint/v1/keys", "admin"),
        ("POST", "/mint/v1/keys/k/rotate", "admin"),
        ("GET", "/mint/v1/audit", "admin"),
        ("POST", "/mint/v1/tenants", "operator"),
        ("POST", "/mint/v1/tenants/t/keys", "operator"),
        ("GET", "/mint/v1/policies/rules", "read"),
        ("GET", "/mint/v1/webhooks/rules", "admin"),
        ("POST", "/mint/v1/keys/k\n/rotate", "admin"),
        ("DELETE", "/mint/v1/policies/p\n/rules/r\n", "admin"),
        ("POST", "/mint/v1/policies/p/aliases/prod\n/protect", "admin"),
        ("POST", "/mint/v1/tenants/t\n/keys", "operator"),
        ("GET", "/mint/v1/policies/keys", "read"),
        ("POST", "/api/v1/create_session", "read"),
        ("POST", "/api/v1/sessions/ses_x/finish", "read"),
        ("POST", "/api/v1/retrieve_future", "read"),
        ("GET", "/api/v1/training_runs", "read"),
        ("POST", "/api/v1/asample", "infer"),
        ("POST", "/api/v1/create_sampling_session", "infer"),
        ("POST", "/api/v1/forward_backward", "train"),
        ("DELETE", "/api/v1/training_runs/r/checkpoints/weights/n", "train"),
    ],
)
def test_route_takes_its_scope(method: str, path: str, scope: Scope) -> None:
    assert scope_of(method, path) == scope
    check_scope({scope}, method, path)


def test_missing_scope_is_named() -> None:
    with pytest.raises(Forbidden, match=r"'train'.*this key has infer, read"):
        check_scope({"read", "infer"}, "POST", "/mint/v1/jobs")


def test_admin_includes_all_but_the_operators() -> None:
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/mint/v1/jobs")):
        check_scope({"admin"}, method, path)
    with pytest.raises(Forbidden):
        check_scope({"admin"}, "GET", "/mint/v1/tenants")
