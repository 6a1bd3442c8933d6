"""vLLM's routes about the server: health needs no key, and load counts the caller's own tenant."""

from functools import partial
from types import SimpleNamespace

import pytest
from security.gateway_rig import TENANT, Rig, make_rig

from mint_common.tenant_budget import TenantBudget
from services.gateway.http.edge.cors import allow_origins
from services.gateway.http.mint.context import CatalogParts
from services.gateway.settings import GatewaySettings

PAGE = "https://app.example"
PREFLIGHT = [("origin", PAGE), ("access-control-request-method", "POST")]


def serving(*bases: str) -> Rig:
    rig = make_rig()
    gateway = rig.http.state.gateway
    gateway.engines = SimpleNamespace(contexts=lambda: dict.fromkeys(bases, 4096), restarting=list)
    gateway.only_base = partial(CatalogParts.only_base, gateway)
    gateway.open_prompts = TenantBudget()
    return rig


@pytest.mark.parametrize(("method", "path"), [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping")])
async def test_health_needs_no_key_and_follows_the_engines(method: str, path: str) -> None:
    rig = serving("tiny")
    answer = await rig.ask(method, path)
    assert (answer.status, answer.body) == (200, b"")
    assert (await serving().ask(method, path)).status == 503
    rig.http.state.in_hand.drain()
    assert (await rig.ask(method, path)).status == 503


async def test_load_is_the_callers_own() -> None:
    rig = serving("tiny")
    budget = rig.http.state.gateway.open_prompts
    budget.take("ten_b", 7)
    assert (await rig.ask("GET", "/load", "read")).json() == {"server_load": 0}
    budget.take(TENANT, 2)
    assert (await rig.ask("GET", "/load", "read")).json() == {"server_load": 2}


async def test_a_tokenizer_needs_a_model_while_several_bases_are_served() -> None:
    answer = await serving("tiny", "smollm2").ask("GET", "/tokenizer_info", "infer")
    assert (answer.status, answer.json()["error"]["param"]) == (400, "model")


async def test_pages_of_named_origins_may_call() -> None:
    rig = serving("tiny")
    allow_origins(rig.http, (PAGE,))
    asked = [*PREFLIGHT, ("access-control-request-headers", "authorization, content-type")]
    preflight = await rig.ask("OPTIONS", "/v1/chat/completions", headers=asked)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert preflight.headers["x-request-id"].startswith("req_")
    for keys, status in ((("read",), 200), ((), 401)):
        answer = await rig.ask("GET", "/version", *keys, headers=[("origin", PAGE)])
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


async def test_pages_of_other_origins_may_not() -> None:
    rig = serving("tiny")
    refused = await rig.ask("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert (refused.status, "access-control-allow-origin" in refused.headers) == (405, False)
    rig = serving("tiny")
    allow_origins(rig.http, ("https://other.example",))
    refused = await rig.ask("OPTIONS", "/v1/chat/completions", headers=PREFLIGHT)
    assert (refused.status, "access-control-allow-origin" in refused.headers) == (400, False)


@pytest.mark.parametrize(
    "origin",
    ["https://App.example", "https://app.example/", "https://app.example:443", "http://a:80", "https://*.a"],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="as browsers send it"):
        GatewaySettings._check_origins((origin,))
    sent = ("*", PAGE, "http://localhost:3000", "http://a:443", "https://[::1]:8443")
    assert GatewaySettings._check_origins(sent) == sent


async def test_a_method_that_a_path_lacks_is_told_all_that_it_has() -> None:
    rig = make_rig()
    for path, methods in (("/mint/v1/jobs", "GET, POST"), ("/mint/v1/policies/p", "DELETE, GET, PATCH")):
        answer = await rig.ask("PUT", path, "all")
        assert (answer.status, answer.headers["allow"]) == (405, methods)


async def test_anthropics_answers_name_the_request_as_its_clients_read_it() -> None:
    answer = await make_rig().ask("POST", "/v1/messages", headers=[("x-request-id", "mine")])
    assert answer.status == 401
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == "mine"
    assert answer.json()["request_id"] == "mine"


@pytest.mark.parametrize("field", ["seed", "steps", "temperature"])
@pytest.mark.parametrize("value", ["false", '"1"'])
async def test_a_number_is_a_number(field: str, value: str) -> None:
    body = f'{{"policy": "p", "task": "t", "{field}": {value}}}'.encode()
    answer = await make_rig().ask("POST", "/mint/v1/jobs", "all", body=body)
    assert (answer.status, answer.json()["error"]["field"]) == (422, field)
