"""What users are told names parts inside by what they are, never by where they are, and cuts long names."""

import json
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from security.gateway_rig import Rig, make_rig
from security.route_scopes import NEEDS

from mint_common.authority import Authority, Caller
from mint_common.client.directory import EngineDirectory
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.errors import MAX_TEXT, NotFound
from services.gateway.adapters.key_checks import KeyChecks
from services.gateway.adapters.resolver import CachedResolver
from services.gateway.adapters.rollout import RolloutClient
from services.gateway.core.callers import KeyMemory
from services.gateway.core.resolutions import ResolutionCache

AWAY = "http://127.0.0.1:9"
LONG = "a" * 100_000


@pytest.fixture
async def lonely() -> AsyncIterator[Rig]:
    """A gateway that knows a key, and reaches nobody else."""
    rig = make_rig()
    gateway = rig.http.state.gateway
    authority = Authority.of(rig.registry.owners["all"])
    memory = KeyMemory(ttl_seconds=10, capacity=100)
    memory.put("all", Caller(authority=authority, name="all"), now=0.0)
    http = InternalHttp(AWAY, token="secret", peer="the registry")
    gateway.registry = RegistryClient(http)
    gateway.keys = KeyChecks(gateway.registry, memory, rig.clock)
    gateway.rollout = RolloutClient(http, SimpleNamespace(check_done=lambda: None))
    gateway.engines = EngineDirectory([AWAY], token="secret")
    gateway.trainers = TrainerDirectory([AWAY], token="secret")
    cache = ResolutionCache(capacity=9, lease_seconds=9, switch_seconds=9, is_ready=lambda _: True)
    gateway.resolver = CachedResolver(gateway.registry, cache, rig.clock)
    yield rig
    await http.close()
    await gateway.engines.aclose()
    await gateway.trainers.aclose()


async def test_no_answer_tells_where_a_part_is_that_does_not_answer(lonely):
    outages = 0
    bodies = {
        "/v1/completions": {"model": "m", "prompt": "x"},
        "/v1/chat/completions": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
        "/mint/v1/policies": {"name": "p", "base": "b"},
    }
    for method, path in (route.split(" ") for route in NEEDS):
        body = json.dumps(bodies.get(path, {})).encode()
        answer = await lonely.ask(method, path.replace("{", "").replace("}", ""), "all", body=body)
        told = answer.body.decode() + str(answer.headers)
        assert "127.0.0.1" not in told, path
        assert ":9" not in told, path
        outages += answer.status == 503
    assert outages > 30


async def test_a_name_of_100_000_characters_is_refused_in_short(lonely):
    asked = json.dumps({"model": LONG, "prompt": "x"}).encode()
    answers = [
        await lonely.ask("POST", "/v1/completions", "all", body=asked),
        await lonely.ask("GET", f"/v1/models/{LONG}", "all"),
        await lonely.ask("GET", f"/mint/v1/policies/{LONG}", "all"),
    ]
    for answer in answers:
        assert answer.status in {400, 404}
        assert len(answer.body) < 400


def test_no_error_is_longer_than_what_is_worth_telling():
    error = NotFound(kind="thing", name=LONG)
    assert len(str(error)) < MAX_TEXT + 100
    assert len(json.dumps(error.to_payload())) < 2 * MAX_TEXT + 200
