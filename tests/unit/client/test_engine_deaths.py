"""A request that kills the engine which runs it is not handed on until none is left."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import pytest
from aiohttp import web

from mint_common.client import directory as directory_module
from mint_common.client import suspects as suspects_module
from mint_common.client.directory import EngineDirectory
from mint_common.errors import EngineDied, EngineRestarting, MintError, RequestEndsEngines, RequestHeldBack
from mint_common.generation import CallFacts, Sampled, SampleRequest, Sampling
from mint_common.ids import TenantId
from mint_common.inference.operations import ApiOperation
from tests.testing.factories import BASE, ENGINE_INFO

POISON = b'{"poison":1}'
ANSWER = Sampled(
    engine_id=ENGINE_INFO.engine_id, revision=None, sequences=(), prompt_logprobs=None, prompt_likeliest=None
)


@dataclass
class Loader:
    """A loader that a poisonous request ends, or tells that its engine has ended (``tells``)."""

    tells: MintError | None = None
    port: int = 0
    begun: int = 0
    runner: web.AppRunner | None = None
    is_well: bool = False
    """Nothing is poison to it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/internal/engine", self.describe)
        app.router.add_post("/internal/serve/{operation}", self.run)
        app.router.add_post("/internal/sample", self.run)
        self.runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None

    async def describe(self, _: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(ENGINE_INFO))

    async def run(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        body = await request.read()
        if b"stream" in body:
            answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await answer.prepare(request)
            await answer.write(b"data: {}\n\n")
        if not self.is_well and (b"poison" in body or b"\xcd\x06\x66" in body):  # of a sample: token 0x666
            if self.tells is not None:
                return web.json_response({"error": self.tells.to_payload()}, status=self.tells.http_status)
            assert request.transport is not None
            assert self.runner is not None
            for site in list(self.runner.sites):
                await site.stop()
            request.transport.abort()
            self.runner, dead = None, self.runner
            asyncio.get_running_loop().call_soon(
                lambda: setattr(self, "_ending", asyncio.ensure_future(dead.cleanup()))
            )
            await asyncio.sleep(60)
        if "sample" in request.path:
            return web.Response(body=msgspec.msgpack.encode(ANSWER))
        return web.json_response({"ok": 1})


@dataclass
class Fleet:
    loaders: list[Loader]
    directory: EngineDirectory
    now: float = 1000.0

    @property
    def dead(self) -> int:
        return sum(loader.runner is None for loader in self.loaders)

    async def serve(self, body: bytes = POISON, *, tenant: str = "t") -> None:
        facts = CallFacts(model="m", request_id="r", tenant_id=TenantId(tenant), revision=None)
        answer = await self.directory.serve(BASE, ApiOperation.CHAT, body, facts)
        try:
            async for _ in answer.parts():
                pass
        finally:
            answer.close()

    async def sample(self, *, request_id: str) -> None:
        sampling = Sampling(max_new_tokens=1, temperature=0.0)
        request = SampleRequest(
            request_id=request_id, tenant_id=TenantId("t"), revision=None, tokens=(0x666,), sampling=sampling
        )
        await self.directory.sample(BASE, request)

    async def restart(self) -> None:
        for loader in self.loaders:
            if loader.runner is None:
                await loader.start()
        self.directory._asked_at = float("-inf")
        assert len(await self.directory.engines()) == len(self.loaders)


@pytest.fixture
async def fleet(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    loaders = [Loader() for _ in range(3)]
    for loader in loaders:
        await loader.start()
    directory = EngineDirectory([loader.url for loader in loaders], token="t")
    made = Fleet(loaders, directory)
    monkeypatch.setattr(suspects_module, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(directory_module, "time", SimpleNamespace(monotonic=lambda: made.now))
    assert len(await directory.engines()) == 3
    yield made
    await directory.aclose()
    for loader in loaders:
        await loader.stop()


@pytest.mark.parametrize("body", [POISON, b"stream poison"])
async def test_a_request_that_kills_engines_has_one_dead_at_most(fleet: Fleet, body: bytes) -> None:
    with pytest.raises(EngineDied) as died:
        await fleet.serve(body)
    assert (died.value.http_status, died.value.code, fleet.dead) == (502, "engine_died", 1)
    for _ in range(3):
        with pytest.raises(RequestHeldBack):
            await fleet.serve(body)
    assert fleet.dead == 1
    await fleet.serve(b"{}")  # what is another request runs on

    await fleet.restart()
    with pytest.raises(EngineDied):
        await fleet.serve(body)
    assert fleet.dead == 1
    await fleet.restart()
    for _ in range(3):
        with pytest.raises(RequestEndsEngines, match="ended 2 times") as refused:
            await fleet.serve(body)
    assert (refused.value.retryable, fleet.dead) == (False, 0)


async def test_a_suspect_waits_for_its_engine_rather_than_being_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 requests at a death, SDKs with 2 retries lost 60."""
    monkeypatch.setattr(suspects_module, "HELD_SECONDS", 10.0)
    with pytest.raises(EngineDied):
        await fleet.serve()
    again = asyncio.create_task(fleet.serve())
    await asyncio.sleep(0.5)
    assert (again.done(), fleet.dead) == (False, 1)
    await fleet.restart()
    with pytest.raises(EngineDied):
        await again


async def test_a_client_that_leaves_early_does_not_clear_its_request(fleet: Fleet) -> None:
    with pytest.raises(EngineDied):
        await fleet.serve(b"stream poison")
    await asyncio.sleep(0.05)  # the engine is asked, and is away
    await fleet.restart()
    facts = CallFacts(model="m", request_id="r", tenant_id=TenantId("t"), revision=None)
    answer = await fleet.directory.serve(BASE, ApiOperation.CHAT, b"stream poison", facts)
    answer.close()
    assert fleet.directory._suspects.has_any(TenantId("t"))


async def test_an_answer_that_came_whole_clears_its_request(fleet: Fleet) -> None:
    for loader in fleet.loaders:
        loader.tells = EngineDied(retry_after_seconds=20)
    with pytest.raises(EngineDied):
        await fleet.serve()
    for loader in fleet.loaders:
        loader.is_well = True
    await asyncio.sleep(0.05)
    await fleet.serve()
    assert not fleet.directory._suspects.has_any(TenantId("t"))


async def test_a_sample_is_known_again_under_another_id(fleet: Fleet) -> None:
    with pytest.raises(EngineDied):
        await fleet.sample(request_id="one")
    with pytest.raises(RequestHeldBack):
        await fleet.sample(request_id="two")
    assert fleet.dead == 1


async def test_another_tenant_s_equal_request_is_not_refused(fleet: Fleet) -> None:
    for loader in fleet.loaders:
        loader.tells = EngineDied(retry_after_seconds=20)
    for _ in range(2):
        with pytest.raises(EngineDied):
            await fleet.serve()
        await asyncio.sleep(0.05)  # the engine is asked, and answers
    with pytest.raises(RequestEndsEngines):
        await fleet.serve()
    with pytest.raises(EngineDied):
        await fleet.serve(tenant="other")


async def test_what_had_not_begun_goes_to_the_next_engine(fleet: Fleet) -> None:
    for loader in fleet.loaders[:2]:
        loader.tells = EngineRestarting(retry_after_seconds=20)
    await fleet.loaders[2].stop()
    with pytest.raises(EngineRestarting):
        await fleet.serve()
    assert [loader.begun for loader in fleet.loaders] == [1, 1, 0]
    assert not fleet.directory._suspects.has_any(TenantId("t"))


async def test_a_request_to_a_loader_that_stops_has_not_begun() -> None:
    """It closes idle connections; a request that met one was told that the engine died under it."""
    answered: list[bytes] = []

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(await reader.readuntil(b"\r\n\r\n"))
        content = msgspec.json.encode(ENGINE_INFO) if answered[-1].startswith(b"GET") else b"{}"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(content) + content)
        await reader.readuntil(b"\r\n\r\n")  # the next request, which it closes on
        writer.close()

    server = await asyncio.start_server(answer_one, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    directory = EngineDirectory([f"http://{host}:{port}"], token="t")
    facts = CallFacts(model="m", request_id="r", tenant_id=TenantId("t"), revision=None)
    answer = await directory.serve(BASE, ApiOperation.CHAT, b"", facts)
    await answer.whole()
    answer.close()
    server.close()
    with pytest.raises(EngineRestarting):
        await directory.serve(BASE, ApiOperation.CHAT, b"", facts)
    assert not directory._suspects.has_any(TenantId("t"))
    await directory.aclose()
