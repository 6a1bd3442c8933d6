"""The routes of the model door: what an agent calls, as OpenAI's API and vLLM's token server have it.

Those of installed environments are on a unix socket of their own, apart from the service's routes: code that
others wrote reaches nothing else there, and there only its own episode. Agents elsewhere come by the gateway.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mint_common.api_errors import error_body, error_status
from mint_common.errors import MintError, NotFound, Overloaded
from mint_common.ids import TenantId
from mint_common.runtime.disconnect import ClientGone, cancelled_on_disconnect
from mint_common.runtime.edge_body import check_text, read_body
from mint_common.runtime.slow_clients import paced
from mint_common.tenant_budget import TenantBudget
from services.rollout.core.door.answers import chat_events
from services.rollout.core.door.other_apis import MESSAGES, RESPONSES, OtherApi, read_other
from services.rollout.core.door.requests import Json, read_chat, read_tokens
from services.rollout.handlers.model_door import PREFIX, ModelDoor
from services.rollout.handlers.open_episode import OpenEpisode

MAX_BODY_BYTES = 16 << 20
"""Maximum size of one request."""
BODIES_BYTES = 256 << 20
"""Maximum bytes of the requests that all episodes have open."""

log = logging.getLogger(__name__)


class DoorCalls:
    """Answers the calls of open episodes, whose bodies share one room."""

    def __init__(self) -> None:
        self._room = TenantBudget(what="the room for requests of episodes", total=BODIES_BYTES)

    async def answer(self, call: str, request: Request, episode: OpenEpisode) -> Response:
        """Answer a request of one of `CALLS`, METHOD PATH. Raises NotFound for another, and MintErrors."""
        answer = _ANSWERS.get(call)
        if answer is None:
            raise NotFound(kind="route of an episode", name=call[:100], near=", ".join(CALLS))
        return await answer(self, request, episode)

    @contextmanager
    def held(self, tenant_id: TenantId) -> Iterator["HeldBody"]:
        """Return the room for one body."""
        held = HeldBody(tenant_id, self._room)
        try:
            yield held
        finally:
            self._room.take(tenant_id, -held.size)

    async def models(self, _request: Request, episode: OpenEpisode) -> Response:
        """Answer with the list of models."""
        return _json(await episode.models())

    async def chat(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer a conversation."""
        return await self._chat(request, episode, needs_tokens=False)

    async def chat_tokens(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer a conversation whose prompt is given as tokens."""
        return await self._chat(request, episode, needs_tokens=True)

    async def _chat(self, request: Request, episode: OpenEpisode, *, needs_tokens: bool) -> Response:
        async with self._read(request, episode) as body:
            asked = read_chat(body, needs_tokens=needs_tokens)
            answer = await episode.chat(asked)
        if not asked.stream:
            return _json(answer)
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = b"".join(chat_events(answer, with_usage=with_usage))
        return Response(events, media_type="text/event-stream")

    async def response(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer an input of OpenAI's Responses."""
        return await self._other(request, episode, RESPONSES)

    async def message(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer a conversation of Anthropic's Messages."""
        return await self._other(request, episode, MESSAGES)

    async def _other(self, request: Request, episode: OpenEpisode, api: OtherApi) -> Response:
        async with self._read(request, episode) as body:
            asked = read_other(api, body)
            found = await episode.other(asked)
        if asked.stream:
            return Response(found.events, media_type="text/event-stream")
        return _json(found.answer or {})

    async def generate(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer a prompt of tokens."""
        async with self._read(request, episode) as body:
            return _json(await episode.generate(read_tokens(body)))

    async def tokenize(self, request: Request, episode: OpenEpisode) -> Response:
        """Answer with tokens."""
        async with self._read(request, episode) as body:
            return Response(await episode.tokenize(body), media_type="application/json")

    @asynccontextmanager
    async def _read(self, request: Request, episode: OpenEpisode) -> AsyncIterator[bytes]:
        """Yield the body, and cancel the block when the client goes away."""
        with self.held(episode.terms.tenant_id) as held:
            try:
                body = await held.body(request)
            except Overloaded as error:
                episode.fault = error
                raise
            async with cancelled_on_disconnect(request):
                yield body


Answer = Callable[[DoorCalls, Request, OpenEpisode], Awaitable[Response]]

_ANSWERS: Mapping[str, Answer] = {
    "GET /v1/models": DoorCalls.models,
    "POST /v1/chat/completions": DoorCalls.chat,
    "POST /v1/chat/completions/tokens": DoorCalls.chat_tokens,
    "POST /v1/responses": DoorCalls.response,
    "POST /v1/messages": DoorCalls.message,
    "POST /tokenize": DoorCalls.tokenize,
    "POST /v1/tokenize": DoorCalls.tokenize,
    "POST /inference/v1/generate": DoorCalls.generate,
}
CALLS = tuple(_ANSWERS)
"""Requests that an episode may make, METHOD PATH below its address."""


def door_http(door: ModelDoor, calls: DoorCalls) -> Starlette:
    """Return the application of the socket."""

    async def answer(request: Request) -> Response:
        token, path = request.path_params["token"], request.url.path
        call = path.removeprefix(f"{PREFIX}{token}")
        return await calls.answer(f"{request.method} {call}", request, door.episode(token))

    routes = []
    for each in CALLS:
        method, path = each.split(" ")
        routes.append(Route(f"{PREFIX}{{token}}{path}", answer, methods=[method]))
    return Starlette(routes=routes, exception_handlers={MintError: _answer_error, Exception: _answer_bug})


class HeldBody:
    """The bytes that one request holds of the room for all."""

    def __init__(self, tenant_id: TenantId, room: TenantBudget) -> None:
        self._tenant_id = tenant_id
        self._room = room
        self.size = 0

    async def body(self, request: Request) -> bytes:
        """Return the body. Raises BodyTooLarge, Overloaded, ClientGone."""
        body = await read_body(paced(request.receive), request.headers, limit=MAX_BODY_BYTES, hold=self._hold)
        if body is None:
            raise ClientGone
        check_text(body, request.headers)
        return body

    def _hold(self, size: int) -> None:
        self._room.check(self._tenant_id, size)
        self._room.take(self._tenant_id, size)
        self.size += size


def _json(answer: Json) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _answer_error(request: Request, error: Exception) -> Response:
    """Answer in the API's shape; its clients repeat nothing, since engines have been asked again already."""
    assert isinstance(error, MintError)
    is_anthropic = request.url.path.endswith("/v1/messages")
    body = msgspec.json.encode(error_body(error, api="anthropic" if is_anthropic else "openai"))
    headers = {"x-should-retry": "false"}
    return Response(body, error_status(error), headers=headers, media_type="application/json")


def _answer_bug(request: Request, _error: Exception) -> Response:
    return _answer_error(request, MintError())
