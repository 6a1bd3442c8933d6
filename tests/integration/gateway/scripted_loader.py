"""A loader with a scripted engine: its real routes, with answers that a test can predict.

One character is one token. A completion says who answers, which choice it is, and repeats the prompt. A
prompt may begin with a command: OVERLOAD refuses, SLOW never ends, BREAK fails after two tokens, LIE answers
as another revision, COLD (of samples) waits for its adapter until the test lets it load. A revision that is
among the ``skilled`` answers ``f <word>=`` with the word; one that is among the ``poison`` has no finite
output.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from http_servers import make_server

from mint_common.api_errors import error_event
from mint_common.errors import NonFiniteOutput, Overloaded, Unavailable
from mint_common.generation import (
    CALL_HEADER,
    ENGINE_HEADER,
    REVISION_HEADER,
    TIER_HEADER,
    AdapterStatus,
    CallFacts,
    EngineLoad,
    Sampled,
    SampledSequence,
    SampleRequest,
)
from mint_common.ids import BaseName, Digest, EngineId
from mint_common.inference.operations import ApiOperation
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.edge import create_http
from services.loader.core.inference.check import read_checked
from tests.testing.factories import ADAPTER_STATUS, ENGINE_INFO

MAX_CONTEXT = 512
LOGPROB = -0.25
OTHER = Digest("sha256:" + "f" * 64)
BROKEN = Unavailable(what="the engine", problem="it broke")


@dataclass(frozen=True, kw_only=True)
class ScriptedCall:
    """A request of an inference API, as the loader got it."""

    operation: ApiOperation
    facts: CallFacts
    body: dict[str, Any]

    @property
    def n(self) -> int:
        """Return how many answers there are: of one prompt."""
        return int(self.body.get("n") or 1)

    @property
    def prompts(self) -> list[str]:
        """Return the texts of the prompts; all messages together are one."""
        if "messages" in self.body:
            messages = self.body["messages"]
            batch = messages if isinstance(messages[0], list) else [messages]
            return ["|".join(_text(message["content"]) for message in each) for each in batch]
        prompt = self.body.get("prompt") or self.body.get("tokens") or ""
        if isinstance(prompt, str):
            return [prompt]
        return [bytes(prompt).decode()] if isinstance(prompt[0], int) else list(prompt)

    @property
    def prompt(self) -> str:
        """Return the first prompt."""
        return self.prompts[0]

    def scripts(self, skilled: set[Digest]) -> list[tuple[str, str]]:
        """Return the text and the finish reason of each choice."""
        return [self._script(prompt, at, skilled) for prompt in self.prompts for at in range(self.n)]

    def _script(self, prompt: str, index: int, skilled: set[Digest]) -> tuple[str, str]:
        revision = self.facts.revision
        if revision is not None and revision.digest in skilled:
            return prompt.removeprefix("f ").removesuffix("="), "stop"
        who = f"r{revision.number}" if revision else "base"
        stop = self.body.get("stop") or []
        limit = self.body.get("max_tokens") or MAX_CONTEXT
        return _cut(f"{who}/{index}/{prompt}", [stop] if isinstance(stop, str) else stop, limit)

    def answer(self, served: str, skilled: set[Digest]) -> dict[str, Any]:
        """Return the whole answer."""
        texts = self.scripts(skilled)
        count = sum(len(text) for text, _ in texts)
        usage = {
            "prompt_tokens": sum(map(len, self.prompts)),
            "completion_tokens": count,
            "total_tokens": sum(map(len, self.prompts)) + count,
        }
        choices = [
            {"index": at, "finish_reason": reason, "logprobs": None, **self._said(text, "message")}
            for at, (text, reason) in enumerate(texts)
        ]
        kind = "chat.completion" if self.operation == "chat" else "text_completion"
        return {**self._head(served, kind), "choices": choices, "usage": usage}

    def part(self, served: str, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """Return one event of the streamed answer."""
        choice = {"index": index, "finish_reason": reason, **self._said(text, "delta")}
        kind = "chat.completion.chunk" if self.operation == "chat" else "text_completion"
        return {**self._head(served, kind), "choices": [choice]}

    def _said(self, text: str, name: str) -> dict[str, Any]:
        return {name: {"role": "assistant", "content": text}} if self.operation == "chat" else {"text": text}

    def _head(self, served: str, kind: str) -> dict[str, Any]:
        return {
            "id": self.facts.request_id,
            "object": kind,
            "created": 1,
            "model": self.facts.model,
            "system_fingerprint": served,
        }


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


class ScriptedLoader:
    """The loader's HTTP in a thread of its own; ``requests`` and ``aborted`` say what it saw."""

    def __init__(self, *, port: int, token: str, base: BaseName, base_digest: Digest) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.calls: list[ScriptedCall] = []
        self.samples: list[SampleRequest] = []
        self.refusals = 0
        self.aborted: list[str] = []
        self.resident: list[AdapterStatus] = []
        self.asked_for: list[str | None] = []
        self.prewarmed: list[Digest] = []
        self.skilled: set[Digest] = set()
        self.poison: set[Digest] = set()
        self.may_load = threading.Event()
        self.may_load.set()
        self.may_report = threading.Event()
        self.may_report.set()
        self.load = EngineLoad(
            requests=0,
            loads_waiting=0,
            loads_running=0,
            in_slots=0,
            in_host=0,
            host_bytes=0,
            host_bytes_capacity=1 << 30,
        )
        self.info = replace(
            ENGINE_INFO,
            engine_id=EngineId("scripted"),
            epoch="1",
            base=base,
            base_digest=base_digest,
            max_context=MAX_CONTEXT,
        )
        self._port, self._routes = port, self._http(token)

    def start(self) -> None:
        """Serve in the background; again after a stop."""
        self._server = make_server(self._routes, port=self._port)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        self._thread.join(10)

    def _http(self, token: str) -> FastAPI:
        http = create_http(title="loader", service="loader", internal_token=token, ready=lambda: True)

        @http.get("/internal/engine")
        async def engine() -> dict[str, object]:
            return asdict(self.info)

        @http.get("/internal/adapters")
        async def adapters(tenant_id: str | None = None) -> list[dict[str, object]]:
            self.asked_for.append(tenant_id)
            return [asdict(status) for status in self.resident]

        @http.get("/internal/load")
        async def load() -> dict[str, object]:
            while not self.may_report.is_set():
                await asyncio.sleep(0.01)
            return asdict(self.load)

        @http.post("/internal/prewarm")
        async def prewarm(request: Request) -> dict[str, object]:
            digest = Digest((await request.json())["revision"]["digest"])
            self.prewarmed.append(digest)
            while not self.may_load.is_set():
                await asyncio.sleep(0.01)
            return asdict(ready_status(digest))

        @http.post("/internal/tokenize")
        async def tokenize(request: Request) -> dict[str, object]:
            body = await request.json()
            messages = body.get("messages", ())
            text = body.get("text") or "|".join(message["content"] for message in messages)
            return {"tokens": list(text.encode())}

        self._add_answers(http)
        return http

    def _add_answers(self, http: FastAPI) -> None:
        @http.post("/internal/serve/{operation}")
        async def serve(operation: str, request: Request) -> Response:
            facts = msgspec.json.decode(request.headers[CALL_HEADER], type=CallFacts)
            asked = ScriptedCall(
                operation=(found := ApiOperation.named(operation)),
                facts=facts,
                body=read_checked(found, await request.body(), max_context=MAX_CONTEXT).fields,
            )
            self.calls.append(asked)
            if asked.prompt.startswith("OVERLOAD"):
                raise Overloaded(what="the cold queue", depth=4, retry_after_seconds=7)
            async with cancelled_on_disconnect(request):
                return await self._serve(asked)

        @http.get("/internal/adapters/{digest}")
        async def adapter(digest: str) -> dict[str, object]:
            status = ready_status(Digest(digest))
            if self.may_load.is_set():
                return asdict(status)
            cold = replace(status, readiness="prewarming", state="queued", queue_position=2)
            return asdict(cold)

        @http.post("/internal/sample")
        async def sample(request: Request) -> Response:
            asked = msgspec.msgpack.decode(await request.body(), type=SampleRequest)
            self.samples.append(asked)
            return Response(msgspec.msgpack.encode(await self._sample(asked)))

    async def _sample(self, asked: SampleRequest) -> Sampled:
        prompt = _prompt(asked)
        if prompt.startswith("OVERLOAD") and self.refusals:
            self.refusals -= 1
            raise Overloaded(what="the engine", depth=4, retry_after_seconds=1)
        while prompt.startswith("COLD") and not self.may_load.is_set():
            await asyncio.sleep(0.01)
        try:
            while prompt.startswith("SLOW"):
                await asyncio.sleep(0.02)
        finally:
            self.aborted.append(asked.request_id)
        served = asked.revision.digest if asked.revision else None
        if served in self.poison:
            raise NonFiniteOutput(digest=str(served))
        scored = None if asked.prompt_logprobs is None else _floats(len(asked.tokens))
        return Sampled(
            engine_id=EngineId("scripted"),
            revision=OTHER if prompt.startswith("LIE") else served,
            sequences=tuple(_sequence(asked, index) for index in range(asked.sampling.n)),
            prompt_logprobs=scored,
            prompt_likeliest=None,
        )

    async def _serve(self, asked: ScriptedCall) -> Response:
        served = asked.facts.revision.digest if asked.facts.revision else f"base:{self.info.base}"
        shown = OTHER if asked.prompt.startswith("LIE") else served
        headers = {REVISION_HEADER: shown, ENGINE_HEADER: "scripted", TIER_HEADER: "slot"}
        parts = self._parts(asked, shown)
        if asked.body.get("stream"):
            return StreamingResponse(parts, media_type="text/event-stream", headers=headers)
        if asked.prompt.startswith("BREAK"):
            raise BROKEN
        if served in self.poison:
            raise NonFiniteOutput(digest=served)
        try:
            while asked.prompt.startswith("SLOW"):
                await asyncio.sleep(0.02)
        except asyncio.CancelledError:
            self.aborted.append(asked.facts.request_id)
            raise
        whole = asked.answer(shown, self.skilled)
        return Response(msgspec.json.encode(whole), media_type="application/json", headers=headers)

    async def _parts(self, asked: ScriptedCall, shown: str) -> AsyncIterator[bytes]:
        ended = False
        try:
            while asked.prompt.startswith("SLOW"):
                yield _event(asked.part(shown, 0, "z", None))
                await asyncio.sleep(0.02)
            for index, (text, reason) in enumerate(asked.scripts(self.skilled)):
                for at, letter in enumerate(text):
                    if asked.prompt.startswith("BREAK") and at == 2:
                        yield error_event(asked.operation, BROKEN)
                        return
                    yield _event(asked.part(shown, index, letter, None))
                yield _event(asked.part(shown, index, "", reason))
            yield b"data: [DONE]\n\n"
            ended = True
        finally:
            if not ended:
                self.aborted.append(asked.facts.request_id)


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def ready_status(digest: Digest) -> AdapterStatus:
    """Return the status of an adapter in a slot."""
    return replace(ADAPTER_STATUS, digest=digest)


def script(asked: SampleRequest, index: int) -> tuple[str, str]:
    """Return the text and the finish reason of one choice."""
    who = f"r{asked.revision.number}" if asked.revision else "base"
    text = f"{who}/{index}/{_prompt(asked)}"
    return _cut(text, asked.sampling.stop, asked.sampling.max_new_tokens)


def _cut(text: str, stops: Sequence[str], limit: int) -> tuple[str, str]:
    cuts = [text.index(stop) for stop in stops if stop in text]
    stopped = text[: min(cuts)] if cuts else text
    return (stopped[:limit], "length") if len(stopped) > limit else (stopped, "stop")


def _sequence(asked: SampleRequest, index: int) -> SampledSequence:
    text, reason = script(asked, index)
    tokens = np.frombuffer(text.encode(), np.uint8).astype("<i4").tobytes()
    return SampledSequence(reason=reason, tokens=tokens, logprobs=_floats(len(text)), likeliest=None)


def _floats(count: int) -> bytes:
    return np.full(count, LOGPROB, dtype="<f4").tobytes()


def _prompt(asked: SampleRequest) -> str:
    return bytes(asked.tokens).decode()
