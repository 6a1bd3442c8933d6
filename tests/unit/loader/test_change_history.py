"""Each tenant's latest changes are kept, and no tenant's displace another's."""

from hypothesis import given
from hypothesis import strategies as st

from mint_common.generation import AdapterChange
from mint_common.ids import Digest, TenantId
from services.loader.core.change_history import MAX_CHANGES, MAX_TENANTS, ChangeHistory


def change(at: float) -> AdapterChange:
    return AdapterChange(digest=Digest("sha256:" + "a" * 64), change="evicted", at=at)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 80)), max_size=12))
def test_each_tenant_has_its_own_latest_changes(bursts: list[tuple[str, int]]) -> None:
    history, noted = ChangeHistory(), dict[str, list[AdapterChange]]()
    for number, (tenant, count) in enumerate(bursts):
        for each in range(count):
            one = change(at=1000.0 * number + each)
            history.note(TenantId(tenant), one)
            noted.setdefault(tenant, []).append(one)
    for tenant, changes in noted.items():
        assert list(history.of_tenant(TenantId(tenant))) == changes[::-1][:MAX_CHANGES]
    assert history.of_tenant(TenantId("other")) == ()


def test_the_tenant_without_changes_for_longest_is_forgotten_first() -> None:
    history = ChangeHistory()
    for number in range(MAX_TENANTS):
        history.note(TenantId(str(number)), change(at=number))
    history.note(TenantId("0"), change(at=1e6))
    history.note(TenantId("new"), change(at=2e6))
    assert len(history.of_tenant(TenantId("0"))) == 2
    assert history.of_tenant(TenantId("1")) == ()
    assert len(history.of_tenant(TenantId("new"))) == 1
