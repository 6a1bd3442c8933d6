"""A long answer is no fault; a peer that is gone is found all the same. All times are a hundredth."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web

from mint_common.client.directory import EngineDirectory
from mint_common.client.http import InternalHttp
from mint_common.errors import EngineDied, InvalidField, Overloaded, Unavailable
from mint_common.generation import CallFacts, EngineInfo, Sampled, SampleRequest, Sampling
from mint_common.ids import TenantId
from mint_common.inference.operations import ApiOperation
from tests.testing.factories import BASE, ENGINE_INFO

TIMEOUT_SECONDS = 0.3
ASK_SECONDS = 0.1
LONG_SECONDS = 1.5
FACTS = CallFacts(model="m", request_id="r", tenant_id=TenantId("t"), revision=None)


@dataclass
class Engine:
    """A loader of which a sample, or a call, takes long; it ends as ``ends`` says."""

    info: EngineInfo = ENGINE_INFO
    seconds: float = LONG_SECONDS
    ends: str = ""
    is_silent: bool = False
    begun: int = 0
    url: str = ""
    listener: Any = None
    streams: list[web.StreamResponse] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self.describe)
        app.router.add_get("/internal/engine", self.describe)
        app.router.add_post("/internal/sample", self.answer)
        app.router.add_post("/internal/serve/{operation}", self.answer)
        return app

    async def describe(self, _: web.Request) -> web.Response:
        if self.is_silent:
            await asyncio.sleep(60)
        return web.json_response(msgspec.to_builtins(self.info))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.begun += 1
        if b"stream" in await request.read():
            return await self.stream(request)
        await asyncio.sleep(self.seconds)
        if self.ends:
            error = {
                "invalid": InvalidField(field="n", problem="too many"),
                "full": Overloaded(what="the engine", depth=3, retry_after_seconds=7),
                "busy": Unavailable(what="a", problem="b"),
            }
            told = error[self.ends]
            return web.json_response({"error": told.to_payload()}, status=told.http_status)
        whole = Sampled(
            engine_id=ENGINE_INFO.engine_id,
            revision=None,
            sequences=(),
            prompt_logprobs=None,
            prompt_likeliest=None,
        )
        return web.Response(body=msgspec.msgpack.encode(whole))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(2):
            await answer.write(b"data: {}\n\n")
            await asyncio.sleep(self.seconds)
        return answer


@pytest.fixture
async def engines() -> AsyncIterator[tuple[Engine, Engine]]:
    both, runners = (Engine(), Engine()), []
    for engine in both:
        runner = web.AppRunner(engine.app(), shutdown_timeout=0, handler_cancellation=True)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine.listener = site
        engine.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield both
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def directory(engines: tuple[Engine, Engine]) -> AsyncIterator[EngineDirectory]:
    urls = [engine.url for engine in engines]
    made = EngineDirectory(urls, token="t", timeout_seconds=TIMEOUT_SECONDS, ask_seconds=ASK_SECONDS)
    assert len(await made.engines()) == 2
    yield made
    await made.aclose()


def sample_request() -> SampleRequest:
    sampling = Sampling(max_new_tokens=1, temperature=0.0)
    return SampleRequest(
        request_id="r", tenant_id=TenantId("t"), revision=None, tokens=(1,), sampling=sampling
    )


async def test_an_answer_that_takes_long_is_made_once_and_takes_no_engine_away(
    engines: tuple[Engine, Engine], directory: EngineDirectory
) -> None:
    await directory.sample(BASE, sample_request())
    answer = await directory.serve(BASE, ApiOperation.CHAT, b"{}", FACTS)
    await answer.whole()
    answer.close()
    assert sum(engine.begun for engine in engines) == 2
    assert len(await directory.engines()) == 2
    assert directory.restarting() == []


async def test_an_error_that_is_found_late_arrives_as_itself(
    engines: tuple[Engine, Engine], directory: EngineDirectory
) -> None:
    for engine in engines:
        engine.ends = "invalid"
    with pytest.raises(InvalidField, match="too many"):
        await directory.sample(BASE, sample_request())
    with pytest.raises(InvalidField, match="too many"):
        await directory.serve(BASE, ApiOperation.CHAT, b"{}", FACTS)
    assert sum(engine.begun for engine in engines) == 2


async def test_a_stream_may_be_silent_for_long(
    engines: tuple[Engine, Engine], directory: EngineDirectory
) -> None:
    answer = await directory.serve(BASE, ApiOperation.CHAT, b"stream", FACTS)
    assert b"".join([part async for part in answer.parts()]) == b"data: {}\n\n" * 2
    answer.close()
    assert directory.restarting() == []


async def test_a_peer_that_answers_nothing_more_is_found_in_bounded_time(
    engines: tuple[Engine, Engine],
) -> None:
    engine = engines[0]
    engine.seconds = 60.0
    http = InternalHttp(engine.url, token="t", timeout_seconds=TIMEOUT_SECONDS, ask_seconds=ASK_SECONDS)
    async with http:
        calls = [asyncio.create_task(http.exchange("POST", "/internal/sample")) for _ in range(3)]
        assert not (await asyncio.wait(calls, timeout=LONG_SECONDS))[0], "it lives: nothing is cut"
        engine.is_silent = True
        began = time.monotonic()
        for call in calls:
            with pytest.raises(Unavailable, match="no answer in time"):
                await call
        assert time.monotonic() - began < 4 * (TIMEOUT_SECONDS + ASK_SECONDS)


async def test_a_stream_of_a_peer_that_answers_nothing_more_ends(
    engines: tuple[Engine, Engine], directory: EngineDirectory
) -> None:
    for engine in engines:
        engine.seconds = 60.0
    answer = await directory.serve(BASE, ApiOperation.CHAT, b"stream", FACTS)
    parts = answer.parts()
    assert await anext(parts) == b"data: {}\n\n"
    for engine in engines:
        engine.is_silent = True
    async with asyncio.timeout(4 * (TIMEOUT_SECONDS + ASK_SECONDS)):
        with pytest.raises(EngineDied):
            await anext(parts)
    answer.close()


async def test_a_peer_that_takes_no_new_connections_ends_what_it_has(engines: tuple[Engine, Engine]) -> None:
    engine = engines[0]
    http = InternalHttp(engine.url, token="t", timeout_seconds=TIMEOUT_SECONDS, ask_seconds=ASK_SECONDS)
    async with http:
        call = asyncio.create_task(http.exchange("POST", "/internal/sample"))
        await asyncio.sleep(0.1)
        await engine.listener.stop()  # as a service that drains
        assert await call


async def test_a_failure_of_one_request_takes_no_engine_away(
    engines: tuple[Engine, Engine], directory: EngineDirectory
) -> None:
    for engine in engines:
        engine.seconds, engine.ends = 0.0, "busy"
    with pytest.raises(Unavailable):
        await directory.sample(BASE, sample_request())
    assert [engine.begun for engine in engines] == [1, 1], "tried on the next one, and no further"
    await directory.describe(BASE)
    assert directory.restarting() == []
    await asyncio.sleep(0.1)  # asked, they answered
    assert directory.restarting() == []
    assert len(await directory.engines()) == 2


async def test_an_engine_bounds_its_requests_itself_by_tenant(engines: tuple[Engine, Engine]) -> None:
    """Slow readers of two tenants' ended streams took all places; then every tenant was refused here."""
    engine = engines[0]
    engine.info = msgspec.convert({**msgspec.to_builtins(ENGINE_INFO), "max_requests": 3}, EngineInfo)
    engine.seconds = 0.0
    directory = EngineDirectory([engine.url], token="t", timeout_seconds=TIMEOUT_SECONDS)
    await directory.engines()
    streams = [await directory.serve(BASE, ApiOperation.CHAT, b"stream", FACTS) for _ in range(4)]
    assert engine.begun == 4
    engine.ends = "full"
    with pytest.raises(Overloaded) as refused:
        await directory.serve(BASE, ApiOperation.CHAT, b"{}", FACTS)
    assert (refused.value.retry_after_seconds, directory.restarting()) == (7, [])
    for stream in streams:
        stream.close()
    await directory.aclose()


async def test_what_is_short_waits_for_no_connection_of_what_is_long(engines: tuple[Engine, Engine]) -> None:
    engine = engines[0]
    engine.seconds = 60.0
    directory = EngineDirectory([engine.url], token="t")
    await directory.engines()
    streams = []
    for _ in range(6):  # not more at once than a listener's backlog
        opening = (directory.serve(BASE, ApiOperation.CHAT, b"stream", FACTS) for _ in range(100))
        streams += await asyncio.gather(*opening)
    assert await (await directory.find(BASE)).describe() == engine.info
    for stream in streams:
        stream.close()
    await directory.aclose()
