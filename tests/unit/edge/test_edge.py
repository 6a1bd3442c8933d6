"""The HTTP edge: one shape for every failure, health, metrics, limits, the internal token."""

import asyncio
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from mint_common.errors import InvalidField, NotFound, Overloaded, Unavailable
from mint_common.runtime.edge import create_http
from mint_common.telemetry.tracing import trace_id

TOKEN = {"x-mint-internal-token": "secret"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class Lora(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rank: int = Field(ge=1)


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    lora: Lora
    items: list[Lora] = []


def make_http(*, ready: bool = True, max_body_bytes: int = 1000, trusts_traces: bool = True) -> FastAPI:
    http = create_http(
        title="test",
        service="baker",
        internal_token="secret",
        ready=lambda: ready,
        trusts_traces=trusts_traces,
        max_body_bytes=max_body_bytes,
    )

    @http.post("/orders/{order_id}")
    async def post_order(order_id: int, order: Order, urgent: bool = False) -> dict[str, object]:
        return {"id": order_id, "name": order.name}

    @http.get("/fail/{how}")
    async def fail(how: str) -> None:
        errors: dict[str, Exception] = {
            "missing": NotFound(kind="policy", name="p"),
            "full": Overloaded(what="the queue", depth=3, retry_after_seconds=1.2),
            "away": Unavailable(what="the registry", problem="gone"),
            "field": InvalidField(field="lora.rank", problem="too big"),
            "teapot": HTTPException(418, "short and stout"),
            "bug": RuntimeError("a secret detail"),
        }
        raise errors[how]

    @http.get("/internal/hello")
    async def hello() -> str:
        return trace_id()

    @http.get("/stream/{how}")
    async def stream(how: str) -> StreamingResponse:
        async def lines() -> AsyncIterator[bytes]:
            yield b"one\n"
            await asyncio.sleep(0)
            if how == "broken":
                raise RuntimeError("broken in the middle")
            yield b"two\n"

        return StreamingResponse(lines())

    return http


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with connect(make_http()) as client:
        yield client


def connect(http: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(http), base_url="http://test")


def error_of(response: httpx.Response) -> dict[str, object]:
    body = response.json()
    assert set(body) == {"error"}
    assert {"code", "message", "retryable"} <= set(body["error"])
    return dict(body["error"])


@pytest.mark.parametrize(
    ("how", "status", "code", "retry_after"),
    [
        ("missing", 404, "not_found", None),
        ("full", 429, "overloaded", "2"),
        ("away", 503, "unavailable", "1"),
        ("field", 422, "invalid_field", None),
        ("teapot", 418, "http_418", None),
    ],
)
async def test_an_error_keeps_its_status_code_and_fields(
    client: httpx.AsyncClient, how: str, status: int, code: str, retry_after: str | None
) -> None:
    response = await client.get(f"/fail/{how}")
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert response.headers.get("retry-after") == retry_after


async def test_a_bug_is_logged_and_told_without_details(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    response = await client.get("/fail/bug")
    assert response.status_code == 500
    assert error_of(response) == {"code": "internal", "message": "Something failed.", "retryable": False}
    assert "secret detail" not in response.text
    records = [record for record in caplog.records if record.exc_info]
    assert [record.message for record in records] == ["request failed"]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/orders/1", {"name": "x", "lora": {"rank": 0}}, "lora.rank"),
        ("/orders/1", {"name": "x", "lora": {"rank": 1, "alpha": 2}}, "lora.alpha"),
        ("/orders/1", {"name": "x", "lora": {"rank": 1}, "items": [{"rank": 1}, {}]}, "items.1.rank"),
        ("/orders/1", {"lora": {"rank": 1}}, "name"),
        ("/orders/1", [1], "body"),
        ("/orders/x", {"name": "x", "lora": {"rank": 1}}, "order_id"),
        ("/orders/1?urgent=maybe", {"name": "x", "lora": {"rank": 1}}, "urgent"),
    ],
)
async def test_bad_input_names_the_field_and_shows_no_value(
    client: httpx.AsyncClient, path: str, body: object, field: str
) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 422, response.text
    error = error_of(response)
    assert (error["code"], error["field"], error["retryable"]) == ("invalid_field", field, False)


async def test_where_a_body_stops_being_json_is_told(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/orders/1", content=b'{"name": x}', headers=headers)
    problem = response.json()["error"]["problem"]
    assert (response.status_code, problem) == (422, "is not JSON at character 9: Expecting value")


@pytest.mark.parametrize("body", [b"{", b"", b"\xff\xfe", b"nope", b'{"a":' * 200])
async def test_a_body_that_is_not_json_is_bad_input(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/orders/1", content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}
    error_of(response)


async def test_unpaired_surrogates_are_bad_input(client: httpx.AsyncClient) -> None:
    for body in (rb'{"\ud800": 1}', rb'{"name": "\ud800", "lora": {"rank": 1}}'):
        response = await client.post("/orders/1", content=body, headers={"content-type": "application/json"})
        assert response.status_code == 422
        error_of(response)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.binary(max_size=100))
async def test_no_body_is_a_server_error(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/orders/1", content=body, headers={"content-type": "application/json"})
    assert response.status_code < 500
    error_of(response)


async def test_unknown_routes_and_methods_have_the_same_shape(client: httpx.AsyncClient) -> None:
    missing = await client.get("/nowhere")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "not_found")
    assert "/nowhere" in str(error_of(missing)["message"])
    wrong = await client.delete("/fail/bug")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "GET"


async def test_a_body_over_the_limit_is_refused_whether_it_says_so_or_not(client: httpx.AsyncClient) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    for content in (b" " * 1001, unannounced()):
        response = await client.post(
            "/orders/1", content=content, headers={"content-type": "application/json"}
        )
        assert (response.status_code, error_of(response)["code"]) == (413, "too_large")
        assert "1000 bytes" in str(error_of(response)["message"])
    fits = await client.post("/orders/1", json={"name": "x" * 900, "lora": {"rank": 1}})
    assert fits.status_code == 200


async def test_internal_paths_need_the_token(client: httpx.AsyncClient) -> None:
    for headers in ({}, {"x-mint-internal-token": "wrong"}, {"x-mint-internal-token": ""}):
        for path in ("/internal/hello", "/internal/unknown", "/internal", "/internal%2Fhello"):
            response = await client.get(path, headers=headers)
            assert (response.status_code, error_of(response)["code"]) == (401, "internal_token_refused")
    assert (await client.get("/internal/hello", headers=TOKEN)).status_code == 200


async def test_a_token_that_is_not_ascii_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.get("/internal/hello", headers={b"x-mint-internal-token": "sécret".encode()})
    assert response.status_code == 401


async def test_without_a_token_internal_paths_are_like_others() -> None:
    http = create_http(title="t", service="baker", internal_token=None, ready=lambda: True)

    @http.get("/internal/hello")
    async def hello() -> str:
        return "hello"

    async with connect(http) as client:
        assert (await client.get("/internal/hello")).json() == "hello"


async def test_health_and_readiness_differ() -> None:
    http = make_http(ready=False)
    async with connect(http) as client:
        assert (await client.get("/healthz")).status_code == 200
        starting = await client.get("/readyz")
        assert (starting.status_code, starting.json()) == (503, {"status": "starting"})
    http = make_http()
    async with connect(http) as client:
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        http.state.in_hand.drain()
        draining = await client.get("/readyz")
        assert (draining.status_code, draining.json()) == (503, {"status": "draining"})
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_count_requests_by_route_not_by_path() -> None:
    http = make_http()
    Counter("mint_baker_loaves", "Loaves.", registry=http.state.registry).inc(3)
    async with connect(http) as client:
        for number in range(5):
            await client.post(f"/orders/{number}", json={"name": "x", "lora": {"rank": 1}})
        await client.get("/fail/bug")
        await client.get("/made/up")
        await client.get("/internal/hello")
        text = (await client.get("/metrics")).text
    prefix = "mint_baker_http_request_seconds_count"
    assert f'{prefix}{{method="POST",route="/orders/{{order_id}}",status="200"}} 5.0' in text
    assert f'{prefix}{{method="GET",route="/fail/{{how}}",status="500"}} 1.0' in text
    assert f'{prefix}{{method="GET",route="unknown",status="404"}} 1.0' in text
    assert f'{prefix}{{method="GET",route="unknown",status="401"}} 1.0' in text
    assert "mint_baker_loaves_total 3.0" in text
    assert "process_cpu_seconds_total" in text
    assert "/readyz" not in text


async def test_metrics_say_which_build_this_is_whether_it_is_ready_and_what_is_open() -> None:
    http = make_http()
    async with connect(http) as client:
        text = (await client.get("/metrics")).text
        assert f'mint_build_info{{component="baker",version="{version("mint-stack")}"}} 1.0' in text
        assert 'mint_ready{component="baker"} 1.0' in text
        assert "mint_baker_http_requests_open 0.0" in text
        http.state.in_hand.drain()
        with http.state.in_hand.counted():
            text = (await client.get("/metrics")).text
        assert 'mint_ready{component="baker"} 0.0' in text
        assert "mint_baker_http_requests_open 1.0" in text


async def test_an_unusual_method_is_no_label_of_its_own() -> None:
    async with connect(make_http()) as client:
        for method in ("BREW", "WHEN"):
            assert (await client.request(method, "/fail/bug")).status_code == 405
        text = (await client.get("/metrics")).text
    assert "BREW" not in text


async def test_a_stream_that_breaks_is_cut_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with connect(make_http()) as client:
        assert (await client.get("/stream/whole")).text == "one\ntwo\n"
        with pytest.raises(RuntimeError, match="broken in the middle"):
            await client.get("/stream/broken")
    assert "request failed" in [record.message for record in caplog.records]


async def test_a_request_continues_the_trace_that_its_headers_name(client: httpx.AsyncClient) -> None:
    response = await client.get("/internal/hello", headers={**TOKEN, "traceparent": TRACEPARENT})
    assert response.json() == TRACE
    assert response.headers["x-mint-trace-id"] == TRACE


async def test_a_caller_that_is_not_trusted_joins_no_trace() -> None:
    async with connect(make_http(trusts_traces=False)) as client:
        response = await client.get("/internal/hello", headers={**TOKEN, "traceparent": TRACEPARENT})
    assert response.status_code == 200
    assert response.json() != TRACE
    assert response.headers.get("x-mint-trace-id", "") == response.json()


async def test_an_answer_has_one_trace_id_whatever_headers_its_handler_sends() -> None:
    http = make_http()

    @http.get("/own")
    async def own() -> Response:
        return Response(headers={"X-Mint-Trace-Id": "mine"})

    async def bare(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    http.mount("/bare", bare)
    async with connect(http) as client:
        for path in ("/own", "/bare/"):
            response = await client.get(path, headers={"traceparent": TRACEPARENT})
            assert response.headers.get_list("x-mint-trace-id") == [TRACE]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/internal/hello", 200),
        ("/nowhere", 404),
        ("/internal/hello/nowhere", 404),
        ("/healthz", 200),
        ("/metrics", 200),
    ],
)
async def test_every_answer_has_the_id_of_its_request(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    named = await client.get(path, headers={**TOKEN, "x-request-id": "mine-1"})
    assert (named.status_code, named.headers["x-request-id"]) == (status, "mine-1")
    made = await client.get(path, headers=TOKEN)
    assert made.headers["x-request-id"].startswith("req_")
    refused = await client.get(path, headers={**TOKEN, "x-request-id": "x" * 200})
    assert refused.headers["x-request-id"] not in {"x" * 200, made.headers["x-request-id"]}


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
