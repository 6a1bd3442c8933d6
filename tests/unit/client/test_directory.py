"""A loader whose machine has died refuses nothing: whoever asks it waits for a time-out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import msgspec
import pytest

from mint_common.adapters_format.refusal import AdapterUnreadable
from mint_common.client.directory import EngineDirectory
from mint_common.client.engine_errors import MAX_REFUSALS, MAX_SILENT, retry_in_seconds
from mint_common.errors import EngineRestarting, MintError, Overloaded, PeerFailed, Unavailable
from mint_common.generation import RESTART_SECONDS, CallFacts, EngineLoad, SampleRequest, Sampling
from mint_common.ids import TenantId, new_id
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.dispatch import publish_event
from tests.testing.bus_memory import MemoryBus
from tests.testing.factories import ADAPTER_STATUS, BASE, DIGEST, ENGINE_INFO, EXAMPLES

LOAD = EngineLoad(
    requests=0,
    loads_waiting=0,
    loads_running=0,
    in_slots=0,
    in_host=0,
    host_bytes=0,
    host_bytes_capacity=0,
)

RESIDENT = replace(ADAPTER_STATUS, tier="host")
LOADED = replace(EXAMPLES["adapter.loaded"], epoch="run-2", tier="host")


@asynccontextmanager
async def listening(
    answers: dict[str, object] | None = None, paths: list[str] | None = None
) -> AsyncIterator[str]:
    """Run a loader that answers so by path, an error too, and others with 500; without answers it is silent.

    ``paths`` takes in what it is asked.
    """
    asked, has_ended = asyncio.Event(), asyncio.Event()
    paths = [] if paths is None else paths

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := (await reader.readline()).decode().split():
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0] or b"0"))
            if has_ended.is_set():
                break
            asked.set()
            paths.append(request[1])
            if answers is not None:
                answer = answers.get(request[1].partition("?")[0])
                status = b"200 OK" if answer is not None else b"500 Internal Server Error"
                if isinstance(answer, MintError):
                    status, answer = b"%d Error" % answer.http_status, {"error": answer.to_payload()}
                body = msgspec.json.encode(answer)
                writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        has_ended.set()
        assert asked.is_set()


def answers() -> dict[str, object]:
    return {"/internal/engine": ENGINE_INFO, "/internal/load": LOAD, "/internal/adapters": []}


def sample_request() -> SampleRequest:
    sampling = Sampling(max_new_tokens=1, temperature=0.0)
    return SampleRequest(
        request_id="r", tenant_id=TenantId("t"), revision=None, tokens=(1,), sampling=sampling
    )


async def test_no_request_waits_for_a_loader_that_stays_silent() -> None:
    async with listening() as silent, listening(answers()) as url:
        directory = EngineDirectory([silent, url], token="t")
        for _ in range(2):
            async with asyncio.timeout(10):
                assert (await directory.describe(BASE)) == ENGINE_INFO
            directory._asked_at = float("-inf")  # long ago: the silent one is asked again
        await directory.aclose()


async def test_no_loader_waits_to_be_asked_for_one_that_stays_silent() -> None:
    told = answers()
    async with listening() as silent, listening(told) as url:
        directory, bus = EngineDirectory([silent, url], token="t"), MemoryBus(SystemClock())
        following = asyncio.create_task(directory.follow(bus))
        async with asyncio.timeout(10):
            await directory.describe(BASE)
            told["/internal/adapters"] = [RESIDENT]
            while not directory.holds(BASE, DIGEST):  # of another run than is known: it is asked
                await publish_event(bus, LOADED, cause=new_id("evt"), now=0.0)
                await asyncio.sleep(0.05)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await directory.aclose()


async def test_an_engine_that_has_ended_is_told_to_come_back() -> None:
    request = sample_request()
    async with listening(answers()) as url:
        directory = EngineDirectory([url], token="t")
        assert await directory.describe(BASE) == ENGINE_INFO
        assert directory.restarting() == []
    for _ in range(2):  # the first one finds out, the second one is told at once
        with pytest.raises(EngineRestarting) as told:
            await directory.sample(BASE, request)
        assert 2 <= told.value.retry_after_seconds <= RESTART_SECONDS
    ((info, seconds),) = directory.restarting()
    assert (info, seconds) == (ENGINE_INFO, RESTART_SECONDS)
    slow = replace(ENGINE_INFO, start_seconds=67.0)
    for away_seconds, expected in ((0.0, 67), (60.0, 7), (66.0, 2), (68.0, 17), (240.0, 60)):
        assert retry_in_seconds(slow, away_seconds) == expected
    directory._lost[url] = ENGINE_INFO, float("-inf")  # long ago: it may never come back
    with pytest.raises(Unavailable) as told:
        await directory.find(BASE)
    assert told.value.code == "unavailable"
    await directory.aclose()


async def test_a_request_that_makes_an_engine_fail_goes_to_no_other_and_the_engine_stays_known() -> None:
    asked: list[str] = []
    facts = CallFacts(model="m", request_id="r", tenant_id=TenantId("t"), revision=None)
    async with listening(answers(), asked) as one, listening(answers(), asked) as other:
        directory = EngineDirectory([one, other], token="t")
        assert len(await directory.engines()) == 2
        with pytest.raises(PeerFailed):
            await directory.serve(BASE, ApiOperation.CHAT, b"{}", facts)
        with pytest.raises(PeerFailed):
            await directory.sample(BASE, sample_request())
        assert sorted(path for path in asked if path != "/internal/engine") == [
            "/internal/sample",
            "/internal/serve/chat",
        ]
        client = await directory.find(BASE)
        with pytest.raises(PeerFailed) as failed:
            await client.adapter(DIGEST, tenant_id=TenantId("t"))
        directory.note_failure(client, failed.value)
        assert directory.restarting() == []
        await directory.aclose()


async def test_an_adapter_that_an_older_loader_cannot_read_is_asked_of_the_next() -> None:
    asked: list[str] = []
    unreadable = answers() | {"/internal/sample": AdapterUnreadable(digest=DIGEST, problem="its layout")}
    async with listening(unreadable, asked) as one, listening(unreadable, asked) as other:
        directory = EngineDirectory([one, other], token="t")
        assert len(await directory.engines()) == 2
        with pytest.raises(AdapterUnreadable):
            await directory.sample(BASE, sample_request())
        assert asked.count("/internal/sample") == 2
        assert directory._doubted == {}, "it answers, and serves others"
        await directory.aclose()


async def test_a_request_is_tried_on_a_bounded_number_of_engines() -> None:
    async with AsyncExitStack() as stack:
        asked: list[str] = []
        full = Overloaded(what="the engine", depth=1, retry_after_seconds=1)
        refusing = answers() | {"/internal/sample": full}
        urls = [await stack.enter_async_context(listening(refusing, asked)) for _ in range(6)]
        directory = EngineDirectory(urls, token="t")
        assert len(await directory.engines()) == 6
        with pytest.raises(Overloaded):
            await directory.sample(BASE, sample_request())
        assert asked.count("/internal/sample") == MAX_REFUSALS < 6
        await directory.aclose()


async def test_engines_that_do_not_answer_use_up_tries_of_their_own() -> None:
    """A rack that is gone must not fail requests that the rest can answer."""
    async with AsyncExitStack() as stack:
        restarting = EngineRestarting(retry_after_seconds=1)
        gone = answers() | {"/internal/sample": restarting}
        urls = [await stack.enter_async_context(listening(gone)) for _ in range(MAX_SILENT - 1)]
        full = answers() | {"/internal/sample": Overloaded(what="it", depth=1, retry_after_seconds=1)}
        urls.append(await stack.enter_async_context(listening(full)))
        directory = EngineDirectory(urls, token="t")
        assert len(await directory.engines()) == MAX_SILENT
        with pytest.raises(Overloaded):
            await directory.sample(BASE, sample_request())
        assert len(directory.restarting()) == MAX_SILENT - 1
        await directory.aclose()
