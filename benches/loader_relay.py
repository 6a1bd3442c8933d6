"""How much of an answer one gateway process relays on one core, from an engine that costs nothing.

The engine is a server that sends prepared bytes; the gateway has its real HTTP, middleware, admission and
relay over ports that know one key and one model. What counts is the processor time of the gateway's process,
so that the other processes, on the same cores, do not.
"""

import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import uvicorn
import uvloop

from benches.report import Report, Row, make_row
from mint_common.authority import Authority, Caller
from mint_common.catalog import Resolution
from mint_common.client.directory import EngineDirectory
from mint_common.generation import REVISION_HEADER, EngineLoad
from mint_common.ids import BaseName, TenantId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.http_protocol import ConnectionBounds, protocol_of
from mint_common.testing.factories import ENGINE_INFO
from services.gateway.core.admission import AdmissionQueue
from services.gateway.core.body_budget import BodyBudget
from services.gateway.core.callers import KeyMemory
from services.gateway.core.open_requests import OpenRequests
from services.gateway.http.edge.admission import AdmissionGate
from services.gateway.http.public import build_http
from services.standalone.adapters.launch import free_port

KEY = "tml-bench"
BASE = BaseName("tiny")
ROUNDS, STREAMS, TOKENS, UNARY = 5, 64, 200, 3000
STEP_SECONDS = 0.002
EVENT = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"tiny",'
    b'"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]}\n\n'
)
WHOLE = b'{"id":"cmpl-0","object":"text_completion","choices":[{"index":0,"text":" token"}]}'


def run() -> Report:
    """Measure the gateway and the raw server in turn."""
    found: dict[str, list[Rates]] = {"gateway": [], "raw": []}
    for _ in range(ROUNDS):
        for kind, serve in (("gateway", _gateway), ("raw", _raw)):
            found[kind].append(_measure(serve))
    rows = [
        _row("relay_tokens_per_core_s", found, lambda each: each.tokens, goal=30_000, what="streamed tokens"),
        _row(
            "relay_requests_per_core_s", found, lambda each: each.requests, goal=1_500, what="whole answers"
        ),
    ]
    return Report(bench="loader_relay", rows=rows, draw=lambda figure: _draw(figure, rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Streamed tokens and whole answers a second of a server's processor time."""

    tokens: float
    requests: float


def _row(
    name: str,
    found: Mapping[str, Sequence[Rates]],
    of: Callable[[Rates], float],
    goal: float,
    *,
    what: str,
) -> Row:
    return make_row(
        name,
        [of(each) for each in found["gateway"]],
        unit="1/s",
        goal=goal,
        better="higher",
        limit=statistics.median(of(each) for each in found["raw"]),
        how=f"{what} a second of one gateway process's processor time, {STREAMS} streams of {TOKENS} "
        f"tokens, one event each, and {UNARY} whole answers 32 at once, from a server that sends prepared "
        f"bytes; {ROUNDS} rounds, in turn with the limit: the same server and client library with nothing "
        "between",
    )


def _draw(figure: Any, rows: Sequence[Row]) -> None:  # Any: matplotlib is untyped
    for axes, row in zip(figure.subplots(1, 2), rows, strict=True):
        axes.bar(["gateway", "raw"], [row.value, row.limit])
        axes.axhline(row.goal, linestyle="--", color="black")
        axes.set(title=row.name)


def _measure(serve: Callable[[int, int, Connection], None]) -> Rates:
    engine_port, port = free_port(), free_port()
    here, there = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    parts = [
        spawn.Process(target=_engine, args=(engine_port,), daemon=True),
        spawn.Process(target=serve, args=(port, engine_port, there), daemon=True),
    ]
    for part in parts:
        part.start()
    try:
        return uvloop.run(_load(port, here))
    finally:
        for part in parts:
            part.kill()
            part.join()


async def _load(port: int, gateway: Connection) -> Rates:
    url = f"http://127.0.0.1:{port}/v1/completions"
    headers = {"authorization": f"Bearer {KEY}"}
    async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
        await _until_ready(session, url)

        async def stream() -> int:
            body = {"model": BASE, "prompt": "x", "max_tokens": TOKENS, "stream": True}
            count = 0
            async with session.post(url, json=body) as answer:
                async for part in answer.content.iter_any():
                    count += part.count(b"data: {")
            return count

        async def several(times: int) -> None:
            for _ in range(times):
                async with session.post(url, json={"model": BASE, "prompt": "x", "max_tokens": 1}) as answer:
                    assert answer.status == 200, await answer.text()
                    await answer.read()

        await asyncio.gather(*(stream() for _ in range(8)))
        seconds = _spent(gateway)
        tokens = sum(await asyncio.gather(*(stream() for _ in range(STREAMS))))
        streaming = _spent(gateway) - seconds
        await asyncio.gather(*(several(10) for _ in range(8)))
        seconds = _spent(gateway)
        await asyncio.gather(*(several(UNARY // 32) for _ in range(32)))
        unary = _spent(gateway) - seconds
    return Rates(tokens=tokens / streaming, requests=UNARY // 32 * 32 / unary)


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(120):
        while True:
            try:
                async with session.post(url, json={"model": BASE, "prompt": "x", "max_tokens": 1}) as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)


def _spent(gateway: Connection) -> float:
    gateway.send(None)
    return float(gateway.recv())


def _engine(port: int) -> None:
    """Answer what a loader answers, from memory: one event a stream and step."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        json, marks = (b"content-type", b"application/json"), [(REVISION_HEADER.encode(), b"base:tiny")]
        body = {"/internal/engine": _ENGINE_INFO, "/internal/load": _LOAD}.get(path, WHOLE)
        start = {"type": "http.response.start", "status": 200}
        if body is not WHOLE or b'"stream": true' not in (await receive())["body"]:
            length = (b"content-length", str(len(body)).encode())
            await send({**start, "headers": [*marks, json, length]})
            await send({"type": "http.response.body", "body": body})
            return
        await send({**start, "headers": [*marks, (b"content-type", b"text/event-stream")]})
        for _ in range(TOKENS):
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
            await asyncio.sleep(STEP_SECONDS)
        await send({"type": "http.response.body", "body": b""})

    _serve(app, port)


_ENGINE_INFO = msgspec.json.encode(replace(ENGINE_INFO, base=BASE))
_LOAD = msgspec.json.encode(
    EngineLoad(
        requests=0,
        loads_waiting=0,
        loads_running=0,
        in_slots=0,
        in_host=0,
        host_bytes=0,
        host_bytes_capacity=1,
    )
)


def _gateway(port: int, engine_port: int, asked: Connection) -> None:
    """Serve the gateway's HTTP over ports that know one key and one model."""
    clock = SystemClock()
    http = build_http(ready=lambda: True)
    keys = KeyMemory(ttl_seconds=1e9, capacity=10)
    authority = Authority(tenant_id=TenantId("t"), key_id="k", scopes=frozenset({"infer"}))
    keys.put(KEY, Caller(authority=authority, name="bench"), now=clock.monotonic())
    target = Resolution(base=BASE, policy_id=None, policy_name=None, revision=None)

    async def resolve(_tenant_id: TenantId, _model: str) -> Resolution:
        return target

    def gate(share: float) -> AdmissionGate:
        return AdmissionGate(AdmissionQueue(name="queue", share=share, depth=1 << 20), clock)

    http.state.gateway = SimpleNamespace(
        clock=clock,
        keys=keys,
        engines=EngineDirectory([f"http://127.0.0.1:{engine_port}"], token="t"),
        resolver=SimpleNamespace(resolve=resolve),
        in_hand=OpenRequests(what="requests", most=10_000),
        open_prompts=OpenRequests(what="prompts", most=10_000),
        max_answer_bytes=32 << 20,
        bodies=BodyBudget(limit_bytes=1 << 30),
        cold_admission=gate(0.12),
        body_admission=gate(0.04),
        admission=gate(1),
        is_warm=lambda _tenant_id, _model: True,
    )
    _serve(http, port, asked)


def _raw(port: int, engine_port: int, asked: Connection) -> None:
    """Pass requests on with the same server and client, and nothing between."""
    sessions: list[aiohttp.ClientSession] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if not sessions:
            sessions.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=512)))
        body = (await receive())["body"]
        url = f"http://127.0.0.1:{engine_port}{scope['path']}"
        async with sessions[0].post(url, data=body) as answer:
            kind = answer.headers["content-type"].encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    _serve(app, port, asked)


def _serve(app: Any, port: int, asked: Connection | None = None) -> None:
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=port,
        http=protocol_of(ConnectionBounds()),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=60,
    )

    async def run() -> None:
        if asked is not None:

            def tell() -> None:
                asked.recv()
                asked.send(time.process_time())

            asyncio.get_running_loop().add_reader(asked.fileno(), tell)
        await uvicorn.Server(config).serve()

    uvloop.run(run())
