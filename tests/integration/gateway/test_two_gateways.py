"""A sample that one gateway has is answered by any, and is lost only with the gateway that has it."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle

import httpx
import pytest
import tinker
from http_servers import make_server
from integration.gateway.test_tinker_sampling import _open, _sample
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from tinker import types

from mint_common.members import LEASE_SECONDS
from services.standalone.adapters.launch import free_port
from tests.integration.tenants import api_client
from tests.processes import ServiceProcess

pytestmark = [
    pytest.mark.integration,
    # The SDK leaves its sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOP = ("host", "content-length", "connection", "transfer-encoding")
"""Headers of one connection."""
GONE_SECONDS = LEASE_SECONDS + 10.0


@contextmanager
def other_gateway(stack) -> Iterator[tuple[ServiceProcess, str]]:
    port = free_port()
    environ = stack.environ | {"MINT_GATEWAY_HTTP_PORT": str(port)}
    process = ServiceProcess("gateway", environ, stack.folder / f"gateway-{port}.log")
    process.start()
    try:
        yield process, f"http://127.0.0.1:{port}/api/v1"
    finally:
        process.stop()


@contextmanager
def balanced(urls: list[str]) -> Iterator[str]:
    """Serve an address whose requests go to each gateway in turn, as a balancer without affinity does."""
    turns, port = cycle(urls), free_port()
    polls: set[str] = set()

    async def pass_on(request: Request) -> Response:
        url = next(turns)
        if request.url.path.endswith("/retrieve_future"):
            polls.add(url)
        headers = {name: each for name, each in request.headers.items() if name not in HOP}
        async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
            found = await client.request(
                request.method, request.url.path, content=await request.body(), headers=headers
            )
        told = {name: each for name, each in found.headers.items() if name not in (*HOP, "content-encoding")}
        return Response(found.content, status_code=found.status_code, headers=told)

    route = Route("/{path:path}", pass_on, methods=["GET", "POST", "PUT", "DELETE"])
    server = make_server(Starlette(routes=[route]), port=port)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
        assert polls == set(urls), "both were polled"
    finally:
        server.should_exit = True
        thread.join(10)


def poll(api: httpx.Client, request_id: str, **headers: str) -> httpx.Response:
    return api.post("/retrieve_future", json={"request_id": request_id}, headers=headers)


def polled(api: httpx.Client, request_id: str, *, until: int) -> httpx.Response:
    """Poll until the status is the expected one: a gateway's address is known within a second."""
    deadline = time.monotonic() + GONE_SECONDS
    while (answer := poll(api, request_id)).status_code != until and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status_code == until, answer.text
    return answer


def test_any_gateway_answers_the_polls_of_a_sample(stack):
    with (
        other_gateway(stack) as (process, url),
        stack.tinker_api() as here,
        api_client(url, {"x-api-key": stack.key}) as there,
    ):
        session = _open(here)
        submitted = [
            (api, api.post("/asample", json=_sample(session, f"n{at}", seq_id=at)).json()["request_id"])
            for at, api in enumerate((here, there) * 4)
        ]
        for at, (api, request_id) in enumerate(submitted):
            answers = [polled(each, request_id, until=200) for each in (here, there)]
            texts = [bytes(each.json()["sequences"][0]["tokens"]).decode() for each in answers]
            assert texts == [f"base/0/n{at}"] * 2
            assert answers[0].content == answers[1].content
            again = api.post("/asample", json=_sample(session, f"n{at}", seq_id=at)).json()
            assert again["request_id"] == request_id, "the same submission is the same sample"
        request_id = submitted[0][1]
        packed = poll(there, request_id, accept="application/x-protobuf")
        assert packed.headers["content-type"] == "application/x-protobuf"
        assert packed.content == poll(here, request_id, accept="application/x-protobuf").content
        with api_client(url, {"x-api-key": stack.other_key}) as stranger:
            gone = poll(stranger, request_id)
            assert (gone.status_code, gone.headers["x-should-retry"]) == (410, "false")
        with api_client(url, {"x-api-key": "no key"}) as nobody:
            assert poll(nobody, request_id).status_code == 401

        lost = submitted[1][1]
        process.kill()
        began = time.monotonic()
        assert poll(here, lost).status_code == 503
        assert time.monotonic() - began < 5.0, "a poll does not wait for a gateway that has ended"
        polled(here, lost, until=410)


def test_the_sdk_samples_through_a_balancer_over_two_gateways(stack):
    with other_gateway(stack) as (_, url), balanced([stack.url, url.removesuffix("/api/v1")]) as address:
        with stack.tinker_api() as here, api_client(url, {"x-api-key": stack.key}) as there:
            session = _open(there)
            for at, (one, other) in enumerate(((here, there), (there, here))):  # both know each other
                body = _sample(session, "x", seq_id=at)
                polled(one, other.post("/asample", json=body).json()["request_id"], until=200)
        sampled = len(stack.loader.samples)
        client = tinker.ServiceClient(base_url=address, api_key=stack.key)
        sampler = client.create_sampling_client(base_model="tiny").result()
        params = types.SamplingParams(max_tokens=64)
        prompts = [types.ModelInput.from_ints(list(f"m{at}".encode())) for at in range(32)]
        futures = [sampler.sample(prompt, 1, params) for prompt in prompts]
        texts = [bytes(future.result().sequences[0].tokens).decode() for future in futures]
        assert texts == [f"base/0/m{at}" for at in range(32)]
        assert len(stack.loader.samples) == sampled + 32, "none was computed twice"
        client.close("success").result()
        del sampler, client, futures
        gc.collect()  # the sockets that it leaves


def test_a_poll_that_names_an_unknown_gateway_is_gone(stack):
    with stack.tinker_api() as api:
        for request_id in ("smp_" + "a" * 26 + ".bbbbbbbbbb", "smp_.", "smp_x.y.z", "smp_..%00"):
            assert poll(api, request_id).status_code == 410
