"""Quotas that an operator wrote into a tenant's row."""

import pytest

from services.registry.core.quotas import CatalogQuotas


@pytest.mark.parametrize("wrong", [{"policy": 5}, {"policies": "500"}, {"policies": None}, {"policies": -1}])
def test_what_is_no_quota_is_left_out(wrong: dict[str, object], caplog: pytest.LogCaptureFixture) -> None:
    quotas = CatalogQuotas(policies=5)
    assert quotas.with_own({**wrong, "keys": 7}) == CatalogQuotas(policies=5, keys=7)
    assert caplog.messages == ["quotas of a tenant ignored"]
