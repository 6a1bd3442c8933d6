"""Routes that change state: executed once per Idempotency-Key, and written to the audit log.

Invariants: among requests with one key and one content, one is executed and all get its answer, for a day; a
refusal releases the key. If the outcome of a request is unknown, only its repeats can take the key, under the
same cause, which commits once. Answers with a secret are never stored.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, cast
from urllib.parse import quote

import msgspec
from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from mint_common.authority import Caller
from mint_common.errors import Forbidden, InvalidField, MintError, PreconditionFailed, Unavailable
from mint_common.ids import new_id
from mint_common.json_types import JsonObject
from mint_common.runtime.clock import Clock
from mint_common.runtime.edge_routes import Handler
from services.gateway.adapters.requests_postgres import PostgresRequests
from services.gateway.core.audit import AuditRow
from services.gateway.core.etags import etag_of, is_expected, is_known
from services.gateway.core.idempotency import (
    HEADER,
    LEASE_SECONDS,
    IdempotencyConflict,
    KeyedRequest,
    RequestAtWork,
    StoredAnswer,
    TakenKey,
    keyed_request,
)
from services.gateway.http.edge.context import EDGE, EdgeParts
from services.gateway.http.edge.routes import GatewayRoute

REPEATED_HEADER = "idempotency-replayed"
WAIT_SECONDS, LOOK_SECONDS = 10.0, 0.05
IDEMPOTENCY_PARAMETER: JsonObject = {
    "name": HEADER.lower(),
    "in": "header",
    "required": False,
    "description": "The same key and content is carried out once and answered alike for a day; other content "
    "is 422 idempotency_conflict.",
    "schema": {"type": "string"},
    "example": "nightly-2026-03-01",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Creates:
    field: tuple[str, ...]

    async def __call__(self) -> None:
        """Do nothing: only the dependency of a route on it matters."""


def creates(*field: str) -> Any:  # FastAPI's Depends
    """Name, in a route's ``dependencies``, the field of the answer that is the object of its audit row."""
    return Depends(_Creates(field))


class RecordedRoute(GatewayRoute):
    """A route of a router made with ``route_class=RecordedRoute``."""

    is_secret = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:  # FastAPI's own
        """Document the Idempotency-Key in the schema, if the route is a POST that takes one."""
        super().__init__(path, endpoint, **options)
        calls = [each.call for each in self.dependant.dependencies]
        self.created = next((call.field for call in calls if isinstance(call, _Creates)), ())
        self.asks_afresh |= self.methods != {"GET"}  # a revoked key changes nothing
        if "POST" in self.methods and not self.is_secret:  # it may be repeated under a key
            extra = self.openapi_extra or {}
            others = [each for each in extra.get("parameters", []) if each != IDEMPOTENCY_PARAMETER]
            self.openapi_extra = {**extra, "parameters": [*others, IDEMPOTENCY_PARAMETER]}

    @property
    def other_statuses(self) -> frozenset[int]:
        """Return the statuses that it has beside those of its own, for the schema."""
        if self.methods == {"GET"}:
            return super().other_statuses | ({304} if self._is_of_one_thing else set())
        return super().other_statuses | {412}

    @property
    def _is_of_one_thing(self) -> bool:
        return self.path_format.endswith("}")

    async def serve(self, request: Request, caller: Caller, carry_out: Handler) -> Response:
        """Answer a request; changes and forbidden changes are written to the audit log."""
        if request.method == "GET":
            response = await super().serve(request, caller, carry_out)
            return tagged(request, response) if self._is_of_one_thing else response
        edge = EDGE.of(request)
        try:
            request = await self.admit(request, caller)
        except Forbidden as error:
            await edge.requests.log(caller.tenant_id, _row(request, edge, caller, error.http_status))
            raise
        return await self._record(request, edge, caller, carry_out)

    async def _record(
        self, request: Request, edge: EdgeParts, caller: Caller, carry_out: Handler
    ) -> Response:
        keyed = request.state.keyed = await self._keyed(request, caller)
        request.state.cause = streamed = None
        is_repeat = False
        if keyed is not None:
            if self.streams_body:
                streamed = StreamedBody(request.receive)
                request = Request(request.scope, streamed.receive)
            begun = await _begin(edge, keyed)
            if isinstance(begun, StoredAnswer):
                if streamed is not None and await streamed.sha256() != begun.streamed_sha256:
                    raise IdempotencyConflict(key=keyed.key)
                headers = {REPEATED_HEADER: "true"}
                return Response(begun.body, begun.status, headers, media_type=begun.content_type)
            request.state.cause, is_repeat = keyed.cause(begun), begun.is_repeat
        status, created = 500, ""
        try:
            async with keeping(edge.requests, keyed, edge.clock):
                response = await carry_out(request)
            if request.method == "PATCH":
                response = tagged(request, response)
            status = response.status_code
            created = _name_in(response, self.created)
            if keyed is not None:
                sha256 = None if streamed is None else await streamed.sha256()
                await edge.requests.finish(keyed, _stored(response, sha256))
        except (MintError, RequestValidationError, HTTPException) as error:
            status = _status_of(error)
            raise
        finally:
            if keyed is not None and status >= 400:
                is_unknown = status >= 500 or is_repeat
                await (edge.requests.release if is_unknown else edge.requests.abandon)(keyed)
            await edge.requests.log(caller.tenant_id, _row(request, edge, caller, status, created))
        return response

    async def _keyed(self, request: Request, caller: Caller) -> KeyedRequest | None:
        key = request.headers.get(HEADER)
        if key is None:
            return None
        if self.is_secret:
            problem = "is not supported here: an answer with a key is never stored"
            raise InvalidField(field=HEADER, problem=problem)
        target = f"{request.scope['path']}?{request.scope['query_string'].decode('latin-1')}"
        body = b"" if self.streams_body else await request.body()
        return keyed_request(caller.tenant_id, key, method=request.method, target=target, body=body)


async def _cause(request: Request) -> str:
    keyed = cast(KeyedRequest | None, request.state.keyed)
    return new_id("req") if keyed is None else keyed.request_id


CauseDep = Annotated[str, Depends(_cause)]
"""The cause from which ids of created objects derive; repeats under one Idempotency-Key share it."""


class SecretRoute(RecordedRoute):
    """A route whose answers hold secrets."""

    is_secret = True


async def _repeatable(request: Request) -> str | None:
    return cast(str | None, request.state.cause)


RepeatableDep = Annotated[str | None, Depends(_repeatable)]
"""The cause that the repeats of a request share; None for a request without an Idempotency-Key."""


async def _begin(edge: EdgeParts, keyed: KeyedRequest) -> StoredAnswer | TakenKey:
    """Take the key, or wait briefly for the answer of the request that has it."""
    deadline = edge.clock.monotonic() + WAIT_SECONDS
    while True:
        try:
            return await edge.requests.begin(keyed)
        except RequestAtWork:
            if edge.clock.monotonic() > deadline:
                raise
            await edge.clock.sleep(LOOK_SECONDS)


@asynccontextmanager
async def keeping(
    requests: PostgresRequests, keyed: KeyedRequest | None, clock: Clock
) -> AsyncIterator[None]:
    """Renew a request's lease of its key, if it has one, while it runs: only a crash loses the key."""
    keeper = None if keyed is None else asyncio.create_task(_keep(requests, keyed, clock))
    try:
        yield
    finally:
        if keeper is not None:
            keeper.cancel()


async def _keep(requests: PostgresRequests, keyed: KeyedRequest, clock: Clock) -> None:
    while True:
        await clock.sleep(LEASE_SECONDS / 4)
        try:
            await requests.keep(keyed)
        except Unavailable as error:
            _log.warning("lease of a key not renewed", extra={"problem": str(error)})


def _status_of(error: MintError | RequestValidationError | HTTPException) -> int:
    if isinstance(error, MintError):
        return error.http_status
    return error.status_code if isinstance(error, HTTPException) else InvalidField.http_status


def _stored(response: Response, streamed_sha256: str | None) -> StoredAnswer:
    content_type = response.headers.get("content-type", "application/json")
    return StoredAnswer(
        status=response.status_code,
        content_type=content_type,
        body=bytes(response.body),
        streamed_sha256=streamed_sha256,
    )


def _name_in(response: Response, field: Sequence[str]) -> str:
    found: Any = msgspec.json.decode(response.body) if field else ""  # JSON
    for name in field:
        found = found[name]
    return str(found)


def _row(request: Request, edge: EdgeParts, caller: Caller, status: int, created: str = "") -> AuditRow:
    return AuditRow(
        at=edge.clock.now(),
        key_id=caller.key_id,
        actor=caller.actor,
        method=request.method,
        # Stored encoded: decoded, it may contain characters that Postgres refuses.
        path=quote(request.scope["path"][:500], safe="/@:"),
        status=status,
        object=created,
    )


class StreamedBody:
    """Hashes a request's body while it is read through `receive`. Buffers nothing."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._seen = hashlib.sha256()
        self._ended = False

    async def receive(self) -> Message:
        """Return the next message of the request (ASGI)."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen.update(message.get("body", b""))
            self._ended = not message.get("more_body", False)
        return message

    async def sha256(self) -> str:
        """Read the rest of the body, and return the hash of the whole body. Raises ClientDisconnect."""
        while not self._ended:
            if (await self.receive())["type"] == "http.disconnect":
                raise ClientDisconnect
        return self._seen.hexdigest()


def tagged(request: Request, response: Response) -> Response:
    """Return a JSON answer with its tag, or 304 without a body if the client sent that tag."""
    if response.status_code != 200:
        return response
    tag = etag_of(msgspec.json.decode(response.body))
    known = request.headers.get("if-none-match")
    if request.method in {"GET", "HEAD"} and known is not None and is_known(known, tag):
        return Response(status_code=304, headers={"etag": tag})
    response.headers["etag"] = tag
    return response


def check_expected(header: str | None, current: object, *, what: str) -> None:
    """Check that If-Match names the current ETag. Raises PreconditionFailed."""
    if header is not None:
        tag = etag_of(msgspec.to_builtins(current))
        if not is_expected(header, tag):
            raise PreconditionFailed(what=f"the ETag of {what}", found=tag, expected=header[:200])
