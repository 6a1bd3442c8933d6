"""The routes of the model door: what an agent calls, as OpenAI's API and vLLM's token server have it.

They are on a unix socket of their own, apart from the service's routes: code that others wrote reaches
nothing else there, and there only its own episode.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mint_common.api_errors import error_body, error_status
from mint_common.errors import MintError, Overloaded
from mint_common.runtime.disconnect import ClientGone, cancelled_on_disconnect
from mint_common.runtime.edge_body import check_text, read_body
from mint_common.runtime.slow_clients import paced
from mint_common.tenant_budget import TenantBudget
from services.rollout.core.door.answers import chat_events
from services.rollout.core.door.requests import Json, read_chat, read_tokens
from services.rollout.handlers.model_door import PREFIX, ModelDoor
from services.rollout.handlers.open_episode import OpenEpisode

MAX_BODY_BYTES = 16 << 20
"""Maximum size of one request."""
BODIES_BYTES = 256 << 20
"""Maximum bytes of the requests that all episodes have open."""

log = logging.getLogger(__name__)


def door_http(door: ModelDoor) -> Starlette:
    """Return the application of the socket."""
    bodies = TenantBudget(what="the room for requests of episodes", total=BODIES_BYTES)

    async def models(request: Request) -> Response:
        return _json(await _episode(request).models())

    async def chat(request: Request) -> Response:
        return await _chat(request, needs_tokens=False)

    async def chat_tokens(request: Request) -> Response:
        return await _chat(request, needs_tokens=True)

    async def _chat(request: Request, *, needs_tokens: bool) -> Response:
        episode = _episode(request)
        with _held(episode) as held:
            asked = read_chat(await held.body(request), needs_tokens=needs_tokens)
            async with cancelled_on_disconnect(request):
                answer = await episode.chat(asked)
        if not asked.stream:
            return _json(answer)
        with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        events = b"".join(chat_events(answer, with_usage=with_usage))
        return Response(events, media_type="text/event-stream")

    async def generate(request: Request) -> Response:
        episode = _episode(request)
        with _held(episode) as held:
            asked = read_tokens(await held.body(request))
            async with cancelled_on_disconnect(request):
                return _json(await episode.generate(asked))

    async def tokenize(request: Request) -> Response:
        episode = _episode(request)
        with _held(episode) as held:
            body = await held.body(request)
            async with cancelled_on_disconnect(request):
                return Response(await episode.tokenize(body), media_type="application/json")

    def _episode(request: Request) -> OpenEpisode:
        return door.episode(request.path_params["token"])

    @contextmanager
    def _held(episode: OpenEpisode) -> Iterator[_Bodies]:
        held = _Bodies(episode, bodies)
        try:
            yield held
        finally:
            bodies.take(episode.terms.tenant_id, -held.size)

    own = f"{PREFIX}{{token}}"
    routes = [
        Route(f"{own}/v1/models", models, methods=["GET"]),
        Route(f"{own}/v1/chat/completions", chat, methods=["POST"]),
        Route(f"{own}/v1/chat/completions/tokens", chat_tokens, methods=["POST"]),
        Route(f"{own}/tokenize", tokenize, methods=["POST"]),
        Route(f"{own}/v1/tokenize", tokenize, methods=["POST"]),
        Route(f"{own}/inference/v1/generate", generate, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers={MintError: _answer_error, Exception: _answer_bug})


class _Bodies:
    """The bytes that one request holds of the room for all."""

    def __init__(self, episode: OpenEpisode, room: TenantBudget) -> None:
        self._episode = episode
        self._room = room
        self.size = 0

    async def body(self, request: Request) -> bytes:
        """Return the body. Raises BodyTooLarge, Overloaded, ClientGone."""
        try:
            body = await read_body(
                paced(request.receive), request.headers, limit=MAX_BODY_BYTES, hold=self._hold
            )
        except Overloaded as error:
            self._episode.fault = error
            raise
        if body is None:
            raise ClientGone
        check_text(body, request.headers)
        return body

    def _hold(self, size: int) -> None:
        tenant = self._episode.terms.tenant_id
        self._room.check(tenant, size)
        self._room.take(tenant, size)
        self.size += size


def _json(answer: Json) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _answer_error(_request: Request, error: Exception) -> Response:
    """Answer in OpenAI's shape; its clients repeat nothing, since engines have been asked again already."""
    assert isinstance(error, MintError)
    body = msgspec.json.encode(error_body(error))
    headers = {"x-should-retry": "false"}
    return Response(body, error_status(error), headers=headers, media_type="application/json")


def _answer_bug(request: Request, _error: Exception) -> Response:
    return _answer_error(request, MintError())
