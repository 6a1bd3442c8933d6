"""Rollout's neighbours: loader, registry and the trainer's renderer over HTTP, the others on the bus."""

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Self

import msgspec
from fastapi import FastAPI, Request, Response
from http_servers import make_server

from mint_common.authority import CALLER_HEADER, read_caller
from mint_common.bus.nats import connect_nats
from mint_common.catalog import PolicyRecord
from mint_common.client.http import MSGPACK
from mint_common.errors import Overloaded, Unavailable
from mint_common.events import Event, JobFinished, JobSubmitted, WaveCompleted
from mint_common.generation import Sampled, SampledSequence, SampleRequest
from mint_common.ids import EngineId, PolicyId
from mint_common.runtime.clock import SystemClock
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from services.standalone.adapters.bases import tiny_folder
from services.standalone.adapters.launch import free_port
from services.trainer.adapters.rendering.rendering import BaseRendering
from services.trainer.http.rendering import add_routes
from tests.testing.factories import BASE, ENGINE_INFO, LORA, TENANT
from tests.testing.ledger_memory import MemoryLedger, MemoryRelay
from tests.unit.rollout.world import EOS, published, tokens_of

TOKEN = "internal"  # the tests' own secret


class Neighbours:
    """The loader, the registry and the trainer's renderer on one port, in a thread.

    It answers ``f abc=`` by the word, every second time. The next ``refusals`` requests are refused, the next
    ``aborts`` are cut off, and while ``held`` is set no completion ends: ``open`` counts those that go on.
    Training still reads the records ``needed``.
    """

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[SampleRequest] = []
        self.scores: list[tuple[str, str, dict[str, object]]] = []
        self.needed: list[str] = []
        self.refusals = 0
        self.aborts = 0
        self.held = threading.Event()
        self.open = 0
        self._rendering = BaseRendering(tiny_folder(), max_context=64)
        self._server = make_server(self._http(), port=port)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._rendering.close()

    def _http(self) -> FastAPI:
        http = create_http(title="neighbours", service="loader", internal_token=TOKEN, ready=lambda: True)

        @http.get(f"/internal/tenants/{TENANT}/policies/{{policy_id}}")
        async def policy(policy_id: str) -> object:
            record = PolicyRecord(
                tenant_id=TENANT,
                policy_id=PolicyId(policy_id),
                name="copy",
                base=BASE,
                lora=LORA,
                created_at=0.0,
                latest=None,
            )
            return msgspec.to_builtins(record)

        @http.post(f"/internal/tenants/{TENANT}/policies/{{policy_id}}/evaluations")
        async def record(policy_id: str, request: Request) -> object:
            caller = read_caller(request.headers[CALLER_HEADER])
            self.scores.append((policy_id, caller.name, await request.json()))
            return {}

        add_routes(http, self._rendering)

        @http.get("/internal/base")
        async def base() -> Response:
            return Response(msgspec.msgpack.encode({"base": BASE}), media_type=MSGPACK)

        @http.post("/internal/training/{policy_id}/records/release")
        async def release(policy_id: str) -> Response:
            return Response(msgspec.msgpack.encode(self.needed), media_type=MSGPACK)

        @http.get("/internal/engine")
        async def engine() -> object:
            info = replace(ENGINE_INFO, engine_id=EngineId("scripted"), vocab_size=264, eos_token_id=EOS)
            return msgspec.to_builtins(info)

        @http.post("/internal/tokenize")
        async def tokenize(request: Request) -> object:
            return {"tokens": tokens_of((await request.json())["text"])}

        @http.post("/internal/sample")
        async def sample(request: Request) -> Response:
            asked = msgspec.msgpack.decode(await request.body(), type=SampleRequest)
            self.requests.append(asked)
            if self.refusals > 0:
                self.refusals -= 1
                raise Overloaded(what="the cold queue", depth=4, retry_after_seconds=1)
            async with cancelled_on_disconnect(request):
                await self._hold()
            if self.aborts > 0:
                self.aborts -= 1
                raise Unavailable(what="the engine", problem="it ended with abort")
            return Response(msgspec.msgpack.encode(_sampled(asked)), media_type=MSGPACK)

        return http

    async def _hold(self) -> None:
        self.open += 1
        try:
            while self.held.is_set():
                await asyncio.sleep(0.02)
        finally:
            self.open -= 1


def _sampled(asked: SampleRequest) -> Sampled:
    letters = bytes(token - 3 for token in asked.tokens if 3 <= token < 259)
    word = letters.decode(errors="replace").removeprefix("f ").removesuffix("=")
    return Sampled(
        engine_id=EngineId("scripted"),
        revision=asked.revision.digest if asked.revision else None,
        sequences=tuple(_sequence(asked, word if index % 2 else "no") for index in range(asked.sampling.n)),
        prompt_logprobs=None if asked.prompt_logprobs is None else _read(asked),
        prompt_likeliest=None,
    )


def _read(asked: SampleRequest) -> bytes:
    """Return log-probabilities of -0.25 and, of the last token, -1."""
    count = len(asked.tokens)
    return struct.pack(f"<{count}f", float("nan"), *[-0.25] * (count - 2), -1.0)


def _sequence(asked: SampleRequest, text: str) -> SampledSequence:
    tokens = (*tokens_of(text), EOS)
    read = len(asked.tokens) + len(tokens) - 1
    return SampledSequence(
        reason="stop",
        tokens=struct.pack(f"<{len(tokens)}i", *tokens),
        logprobs=struct.pack("<f", -0.25) * len(tokens),
        likeliest=None,
        text=text if asked.texts else "",
        routes=b"\x01\x00\x02\x00" * read if asked.routes else b"",
    )


class Trainer:
    """Gateway, trainer and registry on the bus: submits jobs, publishes one revision for each wave.

    ``loss_of`` is the validation loss after a step.
    """

    def __init__(self) -> None:
        self.waves: list[WaveCompleted] = []
        self.ends: list[JobFinished] = []
        self.ledger = MemoryLedger()
        self.loss_of: Callable[[int], float] = lambda step: 1.0 / step

    async def submit(self, event: JobSubmitted) -> None:
        """Submit a job."""
        async with self.ledger.transaction(f"request for {event.job_id}") as transaction:
            await transaction.emit(event)

    async def on_wave_completed(self, event: WaveCompleted) -> Sequence[Event]:
        """Train on a wave."""
        async with self.ledger.transaction(event.id) as transaction:
            led_to = published(event.step, job_id=event.job_id)
            if event.validation is not None:
                led_to = replace(led_to, metrics={"valid_loss": self.loss_of(event.step)})
            await transaction.emit(led_to)
        self.waves.append(event)
        return ()

    async def on_job_finished(self, event: JobFinished) -> Sequence[Event]:
        """Note the end of a job."""
        self.ends.append(event)
        return ()

    @asynccontextmanager
    async def running(self, nats_url: str) -> AsyncIterator[None]:
        """Work on the bus."""
        clock = SystemClock()
        bus = await connect_nats(nats_url, name="trainer")
        relay = MemoryRelay(self.ledger, bus, clock)
        dispatcher = Dispatcher(bus=bus, ledger=self.ledger, durable="trainer", clock=clock)
        dispatcher.on(WaveCompleted, self.on_wave_completed)
        dispatcher.on(JobFinished, self.on_job_finished)
        tasks = [asyncio.create_task(relay.run()), asyncio.create_task(dispatcher.run())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
            await bus.close()
