"""Internal HTTP of the loader: answers of the inference APIs, samples, tokenization, residency."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile
from typing import Annotated, cast

import msgspec
from fastapi import FastAPI, Query, Request, Response
from starlette.datastructures import Headers
from starlette.routing import Route

from mint_common.api_errors import error_event
from mint_common.claims import RevisionRef
from mint_common.client.http import MSGPACK
from mint_common.generation import (
    CALL_HEADER,
    ENGINE_HEADER,
    IGNORED_HEADER,
    REVISION_HEADER,
    TIER_HEADER,
    AdapterPlaces,
    AdapterStatus,
    CallFacts,
    EngineInfo,
    Place,
    SampleRequest,
)
from mint_common.ids import Digest, TenantId
from mint_common.inference.operations import ApiOperation
from mint_common.json_reading import read_json
from mint_common.runtime.disconnect import cancelled_on_disconnect
from mint_common.runtime.draining import set_stream_error
from mint_common.tenant_budget import TenantBudget
from services.loader.adapters.step_stream import StepStream
from services.loader.core.change_history import ChangeHistory
from services.loader.handlers.generation import Serving
from services.loader.handlers.tiers import Tiers
from services.loader.ports import AnswerHead, ApiCall

MAX_PLACES = 4096
_Changes = dict[Digest, Place | None]

_ADMIN = "admin"
UNREAD_BYTES = 256 << 20
"""Maximum bytes of streamed answers that readers have not read yet. They wait here rather than at the engine,
where an adapter would stay in its slot for a slow reader."""


class Places:
    """Numbers the changes of adapters' places within a run of the engine (its epoch).

    The last changes are kept, `MAX_PLACES` entries of them, for clients that know an earlier number.
    """

    def __init__(self, places: Callable[[int], Mapping[Digest, Place]], *, epoch: str) -> None:
        self._places = places
        self._epoch = epoch
        self._number = 0
        self._last: dict[Digest, Place] = {}
        self._changes: dict[str, _Changes] = {}
        self._changed = 0

    @property
    def _version(self) -> str:
        return f"{self._epoch}-{self._number}"

    def since(self, known: str) -> AdapterPlaces:
        """Return what has changed since a version, or all places if its changes are not kept."""
        self._look()
        if known != self._version and known not in self._changes:
            return AdapterPlaces(version=self._version, whole=True, places=dict(self._last))
        changed: _Changes = {}
        for _, changes in dropwhile(lambda kept: kept[0] != known, self._changes.items()):
            changed |= changes
        return AdapterPlaces(version=self._version, whole=False, places=changed)

    def _look(self) -> None:
        now = dict(self._places(MAX_PLACES))
        changes: _Changes = {each: place for each, place in now.items() if self._last.get(each) != place}
        changes |= dict.fromkeys(self._last.keys() - now.keys())
        self._last = now
        if not changes:
            return
        self._changes[self._version] = changes  # the version that they follow
        self._number += 1
        self._changed += len(changes)
        while self._changed > MAX_PLACES:
            self._changed -= len(self._changes.pop(next(iter(self._changes))))


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeBody:
    """The text to tokenize, and its tenant."""

    text: str
    tenant_id: TenantId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PrewarmBody:
    """The revision to load, and its tenant."""

    revision: RevisionRef
    tenant_id: TenantId


def add_routes(
    http: FastAPI, *, serving: Serving, tiers: Tiers, info: EngineInfo, history: ChangeHistory
) -> None:
    """Add the loader's routes to its HTTP application."""
    _add_generation(http, serving, info)
    _add_engine(http, serving, tiers, info)
    _add_residency(http, tiers, Places(tiers.places, epoch=info.epoch))

    @http.get("/internal/adapter-changes")
    async def list_changes(tenant_id: str) -> object:
        """Return the latest changes of a tenant's adapters, the latest first."""
        return msgspec.to_builtins(history.of_tenant(TenantId(tenant_id)))


def _add_generation(http: FastAPI, serving: Serving, info: EngineInfo) -> None:
    unread = TenantBudget(total=UNREAD_BYTES)

    async def serve(request: Request) -> Response:
        """Answer a request of an inference API with the bytes of vLLM's own server."""
        operation = ApiOperation.named(request.path_params["operation"])
        call = _call(operation, request.headers, await request.body())
        parts, tier = serving.serve(call), serving.tier(call)
        # What fails before the head has a status of its own; nothing is loaded for a reader that has gone.
        async with cancelled_on_disconnect(request):
            head = await anext(parts)
            assert isinstance(head, AnswerHead)
            headers = {ENGINE_HEADER: info.engine_id, TIER_HEADER: tier}
            if head.served is not None:
                headers[REVISION_HEADER] = head.served
            if head.ignored:
                headers[IGNORED_HEADER] = ", ".join(head.ignored)
            if head.is_stream:
                bytes_of = cast(AsyncGenerator[bytes, None], parts)
                set_stream_error(request.scope, partial(error_event, operation))
                return StepStream(bytes_of, headers=headers, unread=unread, tenant=call.tenant_id)
            async with aclosing(parts):
                body = b"".join([cast(bytes, part) async for part in parts])
        return Response(body, media_type="application/json", headers=headers)

    async def sample(request: Request) -> Response:
        """Answer whole, in msgpack."""
        body = read_json(await request.body(), SampleRequest, decode=msgspec.msgpack.decode)
        async with cancelled_on_disconnect(request):
            sampled = await serving.sample(body)
        return Response(msgspec.msgpack.encode(sampled), media_type=MSGPACK)

    # Tried first, and Starlette's: FastAPI's own take as long as all else that happens around a request.
    http.routes[:0] = [
        Route("/internal/serve/{operation}", serve, methods=["POST"]),
        Route("/internal/sample", sample, methods=["POST"]),
    ]

    @http.post("/internal/tokenize")
    async def tokenize(request: Request) -> object:
        """Return the token ids of a text."""
        body = read_json(await request.body(), TokenizeBody)
        tokens = await serving.tokenize(body.text, tenant_id=body.tenant_id)
        return {"tokens": tokens}


def _add_engine(http: FastAPI, serving: Serving, tiers: Tiers, info: EngineInfo) -> None:
    @http.get("/internal/engine")
    async def describe() -> object:
        """Return which engine this is."""
        return msgspec.to_builtins(info)

    @http.get("/internal/load")
    async def load() -> object:
        """Return how busy the engine is."""
        report = tiers.load(
            requests=serving.open_requests, tokens=serving.open_tokens, cache=serving.cache_use
        )
        return msgspec.to_builtins(report)


def _add_residency(http: FastAPI, tiers: Tiers, places: Places) -> None:
    @http.get("/internal/adapters")
    async def list_adapters(
        tenant_id: str | None = None,
        limit: Annotated[int | None, Query(ge=1)] = None,
        since: str | None = None,
    ) -> object:
        """Return every adapter that a tenant has used, or that is on the engine, in the queue or on the disk.

        The nearest first. With ``since``, a version of `AdapterPlaces`, the changes since then alone.
        """
        if since is not None:
            return Response(msgspec.json.encode(places.since(since)), media_type="application/json")
        return msgspec.to_builtins(tiers.statuses(tenant_id=_tenant(tenant_id), limit=limit))

    @http.get("/internal/adapters/{digest}")
    async def get_adapter(digest: str, tenant_id: str | None = None) -> object:
        """Return where one adapter is; one that nothing is known of is stored and registered."""
        return msgspec.to_builtins(tiers.status(Digest(digest), tenant_id=_tenant(tenant_id)))

    @http.post("/internal/adapters/{digest}/pin")
    async def pin(digest: str, tenant_id: str) -> object:
        """Protect an adapter from eviction."""
        return msgspec.to_builtins(tiers.pin(Digest(digest), tenant_id=TenantId(tenant_id), pinned=True))

    @http.post("/internal/adapters/{digest}/unpin")
    async def unpin(digest: str, tenant_id: str) -> object:
        """Allow eviction again, as far as the tenant goes."""
        return msgspec.to_builtins(tiers.pin(Digest(digest), tenant_id=TenantId(tenant_id), pinned=False))

    @http.post("/internal/adapters/{digest}/evict")
    async def evict(digest: str, tenant_id: str) -> object:
        """Take an idle adapter from a tenant, and off the engine when no other tenant uses it."""
        evicted = await tiers.evict(Digest(digest), tenant_id=TenantId(tenant_id), cause=_ADMIN)
        return msgspec.to_builtins(evicted)

    @http.post("/internal/prewarm")
    async def prewarm(request: Request) -> object:
        """Load a revision, and answer when it is ready."""
        body = read_json(await request.body(), PrewarmBody)
        status: AdapterStatus = await tiers.prewarm(body.revision, tenant_id=body.tenant_id, cause=_ADMIN)
        return msgspec.to_builtins(status)


def _tenant(tenant_id: str | None) -> TenantId | None:
    return None if tenant_id is None else TenantId(tenant_id)


def _call(operation: ApiOperation, headers: Headers, body: bytes) -> ApiCall:
    facts = read_json(headers.get(CALL_HEADER, "").encode("latin-1"), CallFacts)
    return ApiCall(
        operation=operation,
        body=body,
        model=facts.model,
        request_id=facts.request_id,
        tenant_id=facts.tenant_id,
        revision=facts.revision,
    )
