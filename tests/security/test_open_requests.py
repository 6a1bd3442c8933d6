"""One key holds so many requests and event streams at a time; another tenant's are answered meanwhile."""

import json
from contextlib import ExitStack
from types import SimpleNamespace
from typing import ClassVar

import pytest
from security.gateway_rig import TENANT, Beyond, make_rig

from mint_common.catalog import KeyOwner, Resolution
from mint_common.claims import Claim
from mint_common.errors import EngineRestarting, Overloaded
from mint_common.generation import EngineLimits
from mint_common.ids import TenantId
from mint_common.tenant_budget import TenantBudget
from services.gateway.core.tinker.downloads import Ticket, TicketSigner
from tests.testing.factories import BASE, ENGINE_INFO

OTHER = TenantId("ten_b")
POLICIES, EVENTS = "/mint/v1/policies", "/mint/v1/events"


def rig_of_two():
    rig = make_rig()
    rig.registry.owners["other"] = KeyOwner(tenant_id=OTHER, key_id="key_b", name="b", scopes=("read",))
    return rig, rig.http.state.gateway


@pytest.mark.parametrize(("port", "path"), [("in_hand", POLICIES), ("streams", EVENTS)])
async def test_a_tenant_with_all_that_it_may_have_is_told_so_and_others_go_on(port, path):
    rig, gateway = rig_of_two()
    count: TenantBudget = getattr(gateway, port)
    with ExitStack() as held:
        for _ in range(int(count.limit)):
            held.enter_context(count.counted(TENANT))
        refused = await rig.ask("GET", path, "read")
        assert (refused.status, refused.code) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        assert (await rig.ask("GET", path, "other")).status == 418
    assert (await rig.ask("GET", path, "read")).status == 418


@pytest.mark.parametrize("key", ["read", "infer", "nobody"])
async def test_a_request_is_counted_for_as_long_as_it_takes(key):
    rig, gateway = rig_of_two()
    for _ in range(int(gateway.in_hand.limit) + 1):
        assert (await rig.ask("GET", POLICIES, key)).status in {418, 403, 401}
    with ExitStack() as held:
        for _ in range(int(gateway.in_hand.limit)):
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


class Stored(Beyond):
    """Has every file and revision, of three bytes."""

    claim = Claim(uri="mem://file", sha256="0" * 64, size_bytes=3)

    async def get_revision(self, *_):
        return SimpleNamespace(fault=None, digest="0" * 64, number=1, manifest=self.claim)

    async def find(self, _manifest):
        return {"adapter_config.json": self.claim}

    headers: ClassVar = {"content-length": "3"}

    async def download(self, *_):
        return self

    def parts(self):
        return self.read(None)

    def close(self):
        """Nothing is open."""

    async def read(self, _found):
        yield b"abc"

    read_tar = read

    def tar_bytes(self, _files):
        return 3


TICKET = TicketSigner(secret=b"s").sign(Ticket(manifest=Stored.claim, tenant_id=TENANT, expires_at=9.0))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/file-1/content",
        f"{POLICIES}/a/revisions/1/adapter.tar",
        f"/api/v1/downloads/{TICKET}/checkpoint.tar",
        f"/api/v1/downloads/{TICKET}/adapter_config.json",
    ],
)
async def test_a_tenant_has_few_downloads_at_a_time_each_holds_a_part_of_a_blob(path):
    rig, gateway = rig_of_two()
    stored = Stored()
    rig.registry.get_revision = stored.get_revision
    gateway.rollout = stored
    gateway.revision_files = stored
    gateway.signer = TicketSigner(secret=b"s")
    for _ in range(int(gateway.downloads.limit) + 1):
        assert (await rig.ask("GET", path, "all")).body == b"abc"
    with ExitStack() as held:
        for _ in range(gateway.downloads.limit):
            held.enter_context(gateway.downloads.counted(TENANT))
        refused = await rig.ask("GET", path, "all")
        assert (refused.status, refused.headers["retry-after"]) == (429, "1")


class Engines(Beyond):
    """Knows a context, and has one engine."""

    async def limits(self, _base):
        return EngineLimits(max_context=ENGINE_INFO.max_context, max_completions=128)

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
    gateway.open_prompts = TenantBudget(what="your prompts", limit=9)
    gateway.open_answers = TenantBudget(what="your answers", limit=1 << 20)

    async def status(key="infer", path="/v1/completions", **fields):
        answer = await rig.ask("POST", path, key, body=json.dumps({"model": "m", **fields}).encode())
        return answer.status

    tokens = {"path": "/inference/v1/generate", "token_ids": [1], "sampling_params": {"max_tokens": 8}}
    with gateway.open_answers.counted(TENANT, 1 << 20):
        assert await status(prompt="a") == 429
        assert await status(**tokens) == 429
        assert await status(prompt="a", stream=True) == 418
        assert await status("other", prompt="a") == 418
    assert await status(prompt="a") == 418
    assert await status(**tokens) == 418


class OneOfTwo(Engines):
    """The engines of a small base beside those of a large one; ``away``: none of the small one's answers."""

    def __init__(self, *, away=False):
        self.away = away

    async def limits(self, _base):
        if self.away:
            raise EngineRestarting(retry_after_seconds=7)
        return EngineLimits(max_context=2048, max_completions=4)


async def test_an_answer_is_bounded_by_what_engines_of_its_own_base_take():
    rig, gateway = rig_of_two()
    gateway.engines, gateway.resolver, gateway.admission = OneOfTwo(), Resolver(), gateway.cold_admission
    gateway.max_answer_bytes = 32 << 20
    gateway.open_prompts = TenantBudget(what="your prompts", limit=9)
    gateway.open_answers = TenantBudget(what="your answers", limit=64 << 20)

    async def ask(**fields):
        message = {"role": "user", "content": "hi"}
        body = {"model": "m", "messages": [message], "logprobs": True, "top_logprobs": 5, **fields}
        return await rig.ask("POST", "/v1/chat/completions", "infer", body=json.dumps(body).encode())

    assert (await ask()).status == 418
    refused = await ask(n=5)
    assert (refused.status, b'"param":"n"' in refused.body) == (400, True)
    gateway.engines = OneOfTwo(away=True)
    told = await ask()
    assert (told.status, told.headers["retry-after"]) == (503, "7")
