"""Internal HTTP against a real server: errors keep their class, and trouble is Unavailable."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from http_servers import make_server
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from mint_common.client import connections
from mint_common.client.engine_errors import is_for_next, lost_engine
from mint_common.client.http import InternalHttp, named, path_of
from mint_common.errors import (
    AdapterInvalid,
    BlobCorrupt,
    InvalidField,
    MintError,
    NotFound,
    Overloaded,
    PeerFailed,
    PreconditionFailed,
    RemoteError,
    RemoteRefusal,
    Unauthorized,
    Unavailable,
)
from mint_common.runtime.edge import create_http
from mint_common.telemetry.tracing import span, trace_id

ERRORS: tuple[MintError, ...] = (
    NotFound(kind="policy", name="p"),
    InvalidField(field="lora.rank", problem="too big"),
    Unauthorized(problem="no such key"),
    PreconditionFailed(what="alias prod", found="a", expected="b"),
    Overloaded(what="the queue", depth=3, retry_after_seconds=1.5),
    Unavailable(what="the engine", problem="starting"),
    BlobCorrupt(uri="a/b", expected="1 bytes", found="2"),
    AdapterInvalid(reason="rank", problem="needs 8, found 16"),
)


@dataclass(frozen=True)
class Body:
    name: str
    ranks: tuple[int, ...]


class Peer:
    """A server with the routes of these tests."""

    def __init__(self) -> None:
        self.http = create_http(title="peer", service="peer", internal_token="secret", ready=lambda: True)
        self.url = ""
        add_plain_routes(self.http)
        add_troubled_routes(self)


def add_plain_routes(http: FastAPI) -> None:
    @http.api_route("/internal/echo", methods=["GET", "POST", "PUT", "DELETE"])
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {
            "method": request.method,
            "query": dict(request.query_params),
            "body": body.decode(),
            "trace": trace_id(),
        }

    @http.get("/internal/errors/{number}")
    async def fail(number: int) -> None:
        raise ERRORS[number]

    @http.get("/internal/parts/{name}")
    async def part(name: str) -> str:
        return name

    @http.get("/internal/nothing", status_code=204)
    async def nothing() -> None: ...

    @http.get("/internal/moved")
    async def moved() -> Response:
        return RedirectResponse("/internal/echo")

    @http.get("/internal/text")
    async def text() -> Response:
        return Response("<html>", media_type="text/html")


def add_troubled_routes(peer: Peer) -> None:
    @peer.http.get("/internal/proxy-error")
    async def proxy_error() -> Response:
        return Response("<html>bad gateway", status_code=502)

    @peer.http.get("/internal/refusal")
    async def refusal() -> Response:
        return JSONResponse({"error": {"code": "brand_new", "message": "too bad", "seq": 3}}, 404)

    @peer.http.get("/internal/bug")
    async def bug() -> None:
        raise RuntimeError("a bug of the peer")

    @peer.http.get("/internal/slow")
    async def slow() -> None:
        await asyncio.sleep(30)


@asynccontextmanager
async def serving(http: FastAPI) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = make_server(http)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = server.force_exit = True
    await task
    listener.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with serving(peer.http) as peer.url:
        yield peer


@pytest.fixture
async def client(peer: Peer) -> AsyncIterator[InternalHttp]:
    async with InternalHttp(peer.url, token="secret", timeout_seconds=5) as client:
        yield client


async def test_bodies_and_parameters_arrive(client: InternalHttp) -> None:
    answer = await client.post("/internal/echo", Body(name="x", ranks=(1, 2)), params={"n": 2, "no": None})
    assert (answer["method"], answer["query"]) == ("POST", {"n": "2"})
    assert answer["body"] == '{"name":"x","ranks":[1,2]}'
    assert (await client.get("/internal/echo", params={"model": "p@prod&x=1"}))["query"] == {
        "model": "p@prod&x=1"
    }
    assert (await client.put("/internal/echo", {"a": None}))["body"] == '{"a":null}'
    assert (await client.delete("/internal/echo"))["method"] == "DELETE"
    assert await client.get("/internal/nothing") is None


@pytest.mark.parametrize("number", range(len(ERRORS)), ids=[type(error).__name__ for error in ERRORS])
async def test_an_error_of_the_peer_comes_back_as_itself(client: InternalHttp, number: int) -> None:
    with pytest.raises(MintError) as caught:
        await client.get(f"/internal/errors/{number}")
    assert type(caught.value) is type(ERRORS[number])
    assert caught.value.to_payload() == ERRORS[number].to_payload()


async def test_the_trace_goes_on_at_the_peer(client: InternalHttp) -> None:
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider())
    with span("outer"):
        assert (await client.get("/internal/echo"))["trace"] == trace_id() != ""


async def test_a_wrong_token_is_no_error_of_the_user(peer: Peer) -> None:
    async with InternalHttp(peer.url, token="other") as client:
        with pytest.raises(Unavailable, match="MINT_INTERNAL_TOKEN"):
            await client.get("/internal/echo")


async def test_a_bug_of_the_peer_is_told_apart_from_its_absence(client: InternalHttp) -> None:
    with pytest.raises(PeerFailed, match="answered 500") as bug:
        await client.get("/internal/bug")
    assert (bug.value.http_status, bug.value.retryable) == (502, True)
    with pytest.raises(Unavailable, match="answered 502") as absence:
        await client.get("/internal/proxy-error")
    assert not isinstance(absence.value, PeerFailed)


async def test_a_refusal_that_is_not_known_here_stays_one(client: InternalHttp) -> None:
    with pytest.raises(RemoteRefusal, match=r"brand_new.*too bad") as caught:
        await client.get("/internal/refusal")
    assert (caught.value.http_status, caught.value.retryable) == (422, False)


async def test_an_unknown_route_is_not_mistaken_for_a_missing_thing(client: InternalHttp) -> None:
    with pytest.raises(RemoteError, match=r"not_found.*No route GET /internal/none"):
        await client.get("/internal/none")


async def test_an_answer_that_is_not_json_is_a_remote_error(client: InternalHttp) -> None:
    with pytest.raises(RemoteError, match="not_json"):
        await client.get("/internal/text")


async def test_silence_and_absence_are_unavailable(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    async with InternalHttp(peer.url, token="secret", timeout_seconds=0.2) as client:
        with pytest.raises(Unavailable, match="no answer in time"):
            await client.get("/internal/slow")
        is_long = asyncio.ensure_future(client.get("/internal/slow", is_long=True))
        assert not (await asyncio.wait((is_long,), timeout=1))[0]
        is_long.cancel()
    caplog.clear()
    away = InternalHttp("http://127.0.0.1:9", token="secret", peer="the registry")
    async with away as client:
        with pytest.raises(Unavailable, match=r"^the registry does not answer: Connection refused$"):
            await client.get("/internal/echo")
    (row,) = caplog.records
    assert row.address == "http://127.0.0.1:9", "the log has what users are not told, once"


@contextmanager
def without_handshakes() -> Iterator[str]:
    """The address of a listener whose queue is full: the kernel drops what asks for a connection."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            queued = sockets.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("is_long", [False, True])
async def test_a_host_that_takes_no_connection_is_unavailable_within_seconds(
    is_long: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECT_SECONDS", 0.2)
    with without_handshakes() as url:
        async with InternalHttp(url, token="secret", lost=lost_engine) as client, asyncio.timeout(5):
            with pytest.raises(Unavailable) as told:
                await client.get("/internal/echo", is_long=is_long)
    assert is_for_next(told.value), "it has not begun: another engine may answer it"


async def test_a_hundred_requests_at_once(client: InternalHttp) -> None:
    answers = await asyncio.gather(*(client.get("/internal/echo", {"n": n}) for n in range(100)))
    assert [answer["query"]["n"] for answer in answers] == [str(n) for n in range(100)]


@pytest.mark.parametrize(
    "name", ["plain", "a b", "ü", "mode:copy", "p@prod", "a?b#c", "%2e", "sha256:00", "."]
)
async def test_a_name_stays_in_its_place_of_the_path(client: InternalHttp, name: str) -> None:
    assert await client.get(path_of("internal", "parts", name)) == name


@pytest.mark.parametrize("name", ["../echo", "a/b", "/", "/../echo"])
async def test_a_name_cannot_reach_another_route(client: InternalHttp, name: str) -> None:
    with pytest.raises(RemoteError, match="not_found"):
        await client.get(path_of("internal", "parts", name))


@pytest.mark.parametrize("name", ["", "/", "a/b", "../x", "a\0", "a\n"])
def test_a_name_that_no_path_can_carry_is_not_found(name: str) -> None:
    with pytest.raises(NotFound) as caught:
        named("base", name)
    assert (caught.value.kind, caught.value.name) == ("base", name)


async def test_a_redirection_is_no_answer(client: InternalHttp) -> None:
    with pytest.raises(RemoteError, match="http_307"):
        await client.get("/internal/moved")
