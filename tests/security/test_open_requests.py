"""One key holds so many requests and event streams at a time; another tenant's are answered meanwhile."""

import json
from contextlib import ExitStack

import pytest
from security.gateway_rig import TENANT, Beyond, make_rig

from mint_common.catalog import KeyOwner, Resolution
from mint_common.errors import Overloaded
from mint_common.ids import TenantId
from mint_common.testing.factories import BASE, ENGINE_INFO
from services.gateway.core.open_requests import OpenRequests, Size

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


class Engines(Beyond):
    """Knows a context, and has one engine."""

    def largest_context(self):
        return ENGINE_INFO.max_context

    async def describe(self, _base):
        return ENGINE_INFO


class Resolver(Beyond):
    """Takes every name for a base's."""

    async def resolve(self, _tenant_id, _model):
        return Resolution(base=BASE, policy_id=None, policy_name=None, revision=None)


async def test_whole_answers_of_a_tenant_are_bounded_together_and_streams_are_not_kept():
    rig, gateway = rig_of_two()
    rig.registry.owners["other"] = KeyOwner(tenant_id=OTHER, key_id="key_b", name="b", scopes=("infer",))
    gateway.engines, gateway.resolver, gateway.admission = Engines(), Resolver(), gateway.cold_admission
    gateway.max_answer_bytes = 1 << 20
    gateway.open_prompts = OpenRequests(what="your prompts", most=9, most_bytes=1 << 20)

    async def status(key="infer", path="/v1/completions", **fields):
        answer = await rig.ask("POST", path, key, body=json.dumps({"model": "m", **fields}).encode())
        return answer.status

    tokens = {"path": "/inference/v1/generate", "token_ids": [1], "sampling_params": {"max_tokens": 8}}
    with gateway.open_prompts.counted(TENANT, Size(size_bytes=1 << 20)):
        assert await status(prompt="a") == 429
        assert await status(**tokens) == 429
        assert await status(prompt="a", stream=True) == 418
        assert await status("other", prompt="a") == 418
    assert await status(prompt="a") == 418
    assert await status(**tokens) == 418
