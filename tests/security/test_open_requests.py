"""One key holds so many requests and event streams at a time; another tenant's are answered meanwhile."""

from contextlib import ExitStack

import pytest
from security.gateway_rig import TENANT, make_rig

from mint_common.catalog import KeyOwner
from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from services.gateway.core.open_requests import OpenRequests

OTHER = TenantId("ten_b")
POLICIES, EVENTS = "/mint/v1/policies", "/mint/v1/events"


def rig_of_two():
    rig = make_rig()
    rig.registry.owners["other"] = KeyOwner(tenant_id=OTHER, key_id="key_b", name="b", scopes=("read",))
    return rig, rig.http.state.gateway


@pytest.mark.parametrize(("port", "path"), [("in_hand", POLICIES), ("event_streams", EVENTS)])
async def test_a_tenant_with_all_that_it_may_have_is_told_so_and_others_go_on(port, path):
    rig, gateway = rig_of_two()
    count: OpenRequests = getattr(gateway, port)
    with ExitStack() as held:
        for _ in range(count.most):
            held.enter_context(count.counted(TENANT))
        refused = await rig.ask("GET", path, "read")
        assert (refused.status, refused.code) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await rig.ask("GET", path, "other")).status == 418
    assert (await rig.ask("GET", path, "read")).status == 418


@pytest.mark.parametrize("key", ["read", "infer", "nobody"])
async def test_a_request_is_counted_for_as_long_as_it_takes(key):
    rig, gateway = rig_of_two()
    for _ in range(gateway.in_hand.most + 1):
        assert (await rig.ask("GET", POLICIES, key)).status in {418, 403, 401}
    with ExitStack() as held:
        for _ in range(gateway.in_hand.most):
            held.enter_context(gateway.in_hand.counted(TENANT))
        with pytest.raises(Overloaded):
            held.enter_context(gateway.in_hand.counted(TENANT))


async def test_the_schema_is_written_once(monkeypatch):
    rig, _ = rig_of_two()
    first = await rig.ask("GET", "/openapi.json")
    monkeypatch.setattr(rig.http, "openapi", lambda: pytest.fail("it is written anew"))
    again = await rig.ask("GET", "/openapi.json")
    assert first.status == again.status == 200
    assert first.body == again.body
    assert first.json()["info"]["title"] == "MinT"
