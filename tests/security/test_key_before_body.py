"""Nothing of a body is read for who may not send it, and nobody's bodies fill the gateway's memory."""

import asyncio
import json
import time
from itertools import islice

import httpx
import pytest
import zstandard

from mint_common.errors import InvalidField
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import ContextExceeded
from services.loader.core.inference.check import read_checked
from tests.security.raw_http import head, serving
from tests.security.two_tenants import MIB, Rig

ANN, BEN = "Bearer tml-ann", "Bearer tml-ben"
ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/mint/v1/policies",
    "/mint/v1/policies/p/revisions",
    "/mint/v1/jobs",
    "/api/v1/asample",
    "/api/v1/forward_backward",
)
JSON = "application/json"


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def ask(rig: Rig, body: bytes, *, key: str = BEN, path: str = "/v1/completions") -> httpx.Response:
    transport = httpx.ASGITransport(app=rig.http)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://gateway") as client,
        asyncio.timeout(60),
    ):
        headers = {"authorization": key, "content-type": JSON}
        return await client.post(path, content=body, headers=headers, timeout=60)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("key", [None, "Bearer tml-nobody"])
async def test_without_a_good_key_no_body_is_waited_for(rig: Rig, path: str, key: str | None) -> None:
    async with serving(rig.http) as server:
        given = {} if key is None else {"authorization": key}
        client = await server.connect(head(path, 16 * MIB, **given) + b"x" * 1000)
        assert await client.status() == b"401"
    assert rig.bodies.held == 0


@pytest.mark.parametrize("path", [path for path in ROUTES if not path.endswith("/revisions")])
async def test_a_length_above_the_routes_bound_is_refused_at_once(rig: Rig, path: str) -> None:
    async with serving(rig.http) as server:
        client = await server.connect(head(path, 17 * MIB, authorization=ANN) + b"x" * 1000)
        assert await client.status() == b"413"


async def test_a_length_that_no_room_is_left_for_is_refused_at_once_with_a_short_wait(rig: Rig) -> None:
    async with serving(Rig(body_bytes=MIB).http) as server:
        client = await server.connect(head("/v1/completions", 3 * MIB, authorization=ANN))
        assert await client.status() == b"429"
        assert (await client.headers())["retry-after"] == "1"


async def test_half_bodies_of_one_tenant_leave_half_of_the_memory_to_others(rig: Rig) -> None:
    async with serving(rig.http) as server:
        first = head("/v1/completions", MIB, authorization=ANN, content_type=JSON) + b" " * (MIB - 100)
        clients = [await server.connect(first) for _ in range(30)]
        answers = [asyncio.create_task(client.status()) for client in clients]
        for refused in islice(asyncio.as_completed(answers), 20):
            assert await refused == b"429"
        assert 2 * MIB < rig.bodies.held <= rig.body_bytes // 2
        rig.resolves.set()
        answer = await ask(rig, json.dumps({"model": "warm", "prompt": "x" * 60_000}).encode())
        assert answer.status_code == 404, answer.text
        for client in clients:
            client.writer.close()
        async with asyncio.timeout(30):
            while rig.bodies.held:
                await asyncio.sleep(0.01)
            await asyncio.gather(*answers, return_exceptions=True)


async def test_what_is_announced_and_never_sent_keeps_nobody_out(rig: Rig) -> None:
    async with serving(rig.http) as server:
        for _ in range(50):
            await server.connect(head("/v1/completions", 4 * MIB, authorization=ANN))
        await asyncio.sleep(0.1)
        assert rig.bodies.held == 0
        rig.resolves.set()
        assert (await ask(rig, b'{"model": "warm", "prompt": "x"}', key=ANN)).status_code == 404


async def test_a_body_counts_until_its_answer_is_sent(rig: Rig) -> None:
    body = json.dumps({"model": "warm", "prompt": "x" * 1000}).encode()
    asked = asyncio.create_task(ask(rig, body))
    async with asyncio.timeout(30):
        while not rig.asked:
            await asyncio.sleep(0.01)
    assert rig.bodies.held == len(body)
    rig.resolves.set()
    await asked
    assert rig.bodies.held == 0


async def test_a_compressed_body_counts_with_what_it_becomes() -> None:
    rig = Rig(body_bytes=16 * MIB)
    bomb = zstandard.compress(b" " * (15 * MIB))
    transport = httpx.ASGITransport(app=rig.http)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        headers = {"authorization": ANN, "content-encoding": "zstd"}
        answer = await client.post("/api/v1/asample", content=bomb, headers=headers)
    assert answer.status_code == 429, answer.text
    assert rig.bodies.held == 0


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("surrogates", b'{"model": "warm", "prompt": "' + rb"\ud800" * 680_000 + b'"}'),
        ("late surrogate", b'{"model": "warm", "prompt": "' + rb"\ud83d\ude00" * 340_000 + rb'\ud800"}'),
        ("a list of other things", b'{"model": "warm", "prompt": [' + b"{}," * 1_300_000 + b"{}]}"),
        ("mixed prompts", b'{"model": "warm", "prompt": [' + b"1," * 2_000_000 + b'"x"]}'),
        ("stops", b'{"model": "warm", "prompt": "x", "stop": [' + b"1," * 2_000_000 + b"1]}"),
        ("turns", b'{"model": "warm", "messages": [' + b"{}," * 1_300_000 + b"{}]}"),
        ("tokens", b'{"model": "warm", "prompt": [' + b"1," * 2_000_000 + b"1]}"),
        ("prompts", b'{"model": "warm", "prompt": [' + b"[1]," * 1_000_000 + b"[1]]}"),
        (
            "parts",
            b'{"model": "warm", "messages": [{"role": "user", "content": [' + b"1," * 2_000_000 + b"1]}]}",
        ),
    ],
)
async def test_nonsense_of_four_mebibytes_takes_a_moment(rig: Rig, name: str, body: bytes) -> None:
    operation = ApiOperation.CHAT if b"messages" in body else ApiOperation.COMPLETION
    rig.resolves.set()
    began = time.thread_time()
    answer = await ask(rig, body, path=operation.path)
    if answer.status_code == 404:  # the gateway would hand it on
        with pytest.raises((InvalidField, ContextExceeded)):
            read_checked(operation, body, max_context=2048)
    else:
        assert answer.status_code in {400, 422}, answer.text
    seconds = time.thread_time() - began
    assert seconds < 0.5, f"{name}: {seconds:.2f} s"
