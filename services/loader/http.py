"""Internal HTTP of the loader: generation as a stream, tokenization, residency."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from fastapi import FastAPI, Query, Request, Response
from starlette.types import Receive, Scope, Send

from mint_common.claims import RevisionRef
from mint_common.client.http import MSGPACK
from mint_common.errors import InvalidField
from mint_common.generation import (
    AdapterStatus,
    ChatMessage,
    EngineInfo,
    GenerationChunk,
    GenerationRequest,
    SampleRequest,
)
from mint_common.ids import Digest, TenantId
from mint_common.runtime.disconnect import cancelled_on_disconnect
from services.loader.handlers.generation import Serving
from services.loader.handlers.tiers import Tiers

T = TypeVar("T")

_ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeBody:
    """What to tokenize, exactly one of the two, and for whom."""

    text: str | None = None
    messages: tuple[ChatMessage, ...] | None = None
    tenant_id: TenantId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrewarmBody:
    """Which revision to load, for whom."""

    revision: RevisionRef
    tenant_id: TenantId


def add_routes(http: FastAPI, *, serving: Serving, tiers: Tiers, info: EngineInfo) -> None:
    """Add the loader's routes to its HTTP application."""
    _add_generation(http, serving)
    _add_engine(http, serving, tiers, info)
    _add_residency(http, tiers)


def _add_generation(http: FastAPI, serving: Serving) -> None:
    @http.post("/internal/generate")
    async def generate(request: Request) -> Response:
        """Answer with newline-delimited GenerationChunks, the lines of one engine step together."""
        body = _decode(await request.body(), GenerationRequest)
        steps = serving.generate(body)
        # What fails before this step has a status of its own; nothing is loaded for a reader that has gone.
        async with cancelled_on_disconnect(request):
            first = await anext(steps)
        return ChunkStream(first=first, rest=steps)

    @http.post("/internal/sample")
    async def sample(request: Request) -> Response:
        """Answer whole, in msgpack."""
        body = _decode(await request.body(), SampleRequest, decode=msgspec.msgpack.decode)
        async with cancelled_on_disconnect(request):
            sampled = await serving.sample(body)
        return Response(msgspec.msgpack.encode(sampled), media_type=MSGPACK)

    @http.post("/internal/tokenize")
    async def tokenize(request: Request) -> object:
        """Return the token ids of a text or a conversation."""
        body = _decode(await request.body(), TokenizeBody)
        tokens = await serving.tokenize(text=body.text, messages=body.messages, tenant_id=body.tenant_id)
        return {"tokens": tokens}


def _add_engine(http: FastAPI, serving: Serving, tiers: Tiers, info: EngineInfo) -> None:
    @http.get("/internal/engine")
    async def describe() -> object:
        """Return which engine this is."""
        return msgspec.to_builtins(info)

    @http.get("/internal/load")
    async def load() -> object:
        """Return how busy the engine is."""
        return msgspec.to_builtins(tiers.load(requests=serving.open_requests))


def _add_residency(http: FastAPI, tiers: Tiers) -> None:
    @http.get("/internal/adapters")
    async def list_adapters(
        tenant_id: str | None = None, limit: Annotated[int | None, Query(ge=1)] = None
    ) -> object:
        """Return every adapter that a tenant has used, or that is on the engine, in the queue or on the disk.

        The nearest first.
        """
        return msgspec.to_builtins(tiers.statuses(tenant_id=_tenant(tenant_id), limit=limit))

    @http.get("/internal/adapters/{digest}")
    async def get_adapter(digest: str, tenant_id: str | None = None) -> object:
        """Return where one adapter is; one that nothing is known of is stored and registered."""
        return msgspec.to_builtins(tiers.status(Digest(digest), tenant_id=_tenant(tenant_id)))

    @http.post("/internal/adapters/{digest}/pin")
    async def pin(digest: str, tenant_id: str) -> object:
        """Keep an adapter from eviction."""
        return msgspec.to_builtins(tiers.pin(Digest(digest), tenant_id=TenantId(tenant_id), pinned=True))

    @http.post("/internal/adapters/{digest}/unpin")
    async def unpin(digest: str, tenant_id: str) -> object:
        """Allow eviction again, as far as the tenant goes."""
        return msgspec.to_builtins(tiers.pin(Digest(digest), tenant_id=TenantId(tenant_id), pinned=False))

    @http.post("/internal/adapters/{digest}/evict")
    async def evict(digest: str, tenant_id: str) -> object:
        """Take an idle adapter from a tenant, and off the engine when nobody else uses it."""
        evicted = await tiers.evict(Digest(digest), tenant_id=TenantId(tenant_id), cause=_ADMIN)
        return msgspec.to_builtins(evicted)

    @http.post("/internal/prewarm")
    async def prewarm(request: Request) -> object:
        """Load a revision, and answer when it is ready."""
        body = _decode(await request.body(), PrewarmBody)
        status: AdapterStatus = await tiers.prewarm(body.revision, tenant_id=body.tenant_id, cause=_ADMIN)
        return msgspec.to_builtins(status)


class ChunkStream(Response):
    """Streams steps as lines; a client that goes away cancels the stream, once.

    Starlette's own StreamingResponse cancels through anyio, again and again until the task ends, so that
    nothing could be awaited while cleaning up; telling the engine to abort needs just that.
    """

    media_type = "application/x-ndjson"

    def __init__(
        self, *, first: Sequence[GenerationChunk], rest: AsyncGenerator[Sequence[GenerationChunk], None]
    ) -> None:
        self._first = first
        self._rest = rest
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-store"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # ASGI
        """Send until the end or until the client has gone."""
        async with aclosing(self._rest), asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(send))
            watching = group.create_task(_gone(receive))
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            watching.cancel()
            sending.cancel()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": _lines(self._first), "more_body": True})
        async for step in self._rest:
            await send({"type": "http.response.body", "body": _lines(step), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _tenant(tenant_id: str | None) -> TenantId | None:
    return None if tenant_id is None else TenantId(tenant_id)


def _lines(step: Sequence[GenerationChunk]) -> bytes:
    return b"".join(msgspec.json.encode(chunk) + b"\n" for chunk in step)


def _decode(body: bytes, shape: type[T], *, decode: Callable[..., T] = msgspec.json.decode) -> T:
    try:
        return decode(body, type=shape)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `$")
        raise InvalidField(field=path.strip("`.") or "body", problem=problem) from error
    except msgspec.DecodeError as error:
        raise InvalidField(field="body", problem=str(error)) from error
