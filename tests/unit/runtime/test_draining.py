"""Requests that are cut off end with an error that their clients are told, others with their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from mint_common.errors import Stopping
from mint_common.runtime.draining import RequestsInHand, set_stream_error
from mint_common.runtime.edge import create_http


@pytest.fixture
def http() -> FastAPI:
    http = create_http(title="test", service="baker", internal_token=None, ready=lambda: True)

    @http.get("/answer")
    async def answer() -> None:
        await asyncio.Event().wait()

    @http.get("/stream")
    async def stream(request: Request, told: bool) -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"one\n"
            await asyncio.Event().wait()

        if told:
            set_stream_error(request.scope, lambda error: f"{error.code}\n".encode())
        return StreamingResponse(parts())

    return http


async def cut_off(http: FastAPI, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=http)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        asked = asyncio.create_task(client.get(path))
        while not len(http.state.in_hand):
            await asyncio.sleep(0)
        for _ in range(10):  # let the answer begin
            await asyncio.sleep(0)
        http.state.in_hand.cut_off()
        return await asked


async def test_before_its_head_an_answer_is_503(http: FastAPI) -> None:
    answer = await cut_off(http, "/answer")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "stopping"
    assert len(http.state.in_hand) == 0


async def test_a_stream_ends_with_the_last_word_of_its_api(http: FastAPI) -> None:
    answer = await cut_off(http, "/stream?told=true")

    assert (answer.status_code, answer.text) == (200, "one\nstopping\n")


async def test_an_answer_without_a_last_word_never_looks_whole(http: FastAPI) -> None:
    with pytest.raises(Stopping):
        await cut_off(http, "/stream?told=false")


async def test_what_a_client_can_resume_ends_when_the_service_drains_and_the_rest_goes_on() -> None:
    in_hand = RequestsInHand()

    async def request(*, is_resumable: bool) -> None:
        with in_hand.counted():
            if is_resumable:
                in_hand.end_when_draining()
            await asyncio.Event().wait()

    resumable, other = (asyncio.create_task(request(is_resumable=each)) for each in (True, False))
    await asyncio.sleep(0)
    in_hand.drain()
    with pytest.raises(Stopping):
        await resumable
    with pytest.raises(Stopping):
        await request(is_resumable=True)
    assert len(in_hand) == 1
    in_hand.cut_off()
    with pytest.raises(Stopping):
        await other
    assert len(in_hand) == 0


async def test_a_request_that_ends_slowly_is_cut_off_once() -> None:
    in_hand, ended = RequestsInHand(), asyncio.Event()

    async def request() -> None:
        with in_hand.counted():
            in_hand.end_when_draining()
            try:
                await asyncio.Event().wait()
            finally:
                await ended.wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    in_hand.drain()
    await asyncio.sleep(0)
    in_hand.cut_off()
    ended.set()
    with pytest.raises(Stopping):
        await task


async def test_another_cancellation_stays_one() -> None:
    in_hand = RequestsInHand()

    async def request() -> None:
        with in_hand.counted():
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    assert len(in_hand) == 1
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert len(in_hand) == 0


async def test_answers_of_a_draining_service_close_their_connection(http: FastAPI) -> None:
    @http.get("/quick")
    async def quick() -> str:
        return "done"

    transport = httpx.ASGITransport(app=http)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert "connection" not in (await client.get("/quick")).headers
        http.state.in_hand.drain()
        assert (await client.get("/quick")).headers["connection"] == "close"
