"""What is told to whoever asks for a route that is not there."""

import httpx
import pytest
from fastapi import FastAPI

from mint_common.runtime.edge_errors import answer_errors
from services.gateway.http.edge.errors import install_error_shapes


async def _nothing() -> None:
    pass


async def _ask(method: str, path: str) -> httpx.Response:
    http = FastAPI(docs_url=None)
    for known in (
        "/mint/v1/known",
        "/v1/known",
        "/v1/messages/known",
        "/api/v1/known",
        "/v1/jobs/{job}/events",
    ):
        http.add_api_route(known, _nothing, methods=["GET"])
    answer_errors(http)
    install_error_shapes(http)
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=http), base_url="http://gateway"
    ) as client:
        return await client.request(method, path)


@pytest.mark.parametrize("path", ["/models", "/", "/v1/modells"])
async def test_an_unknown_route_is_named_and_says_where_all_are_listed(path: str) -> None:
    answer = await _ask("GET", path)
    assert answer.status_code == 404
    message = answer.json()["error"]["message"]
    assert message.startswith(f"No route GET {path}; GET /docs lists all.")
    assert ("ends with /v1" in message) is not path.startswith("/v1/")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/v1/messages", "; the client adds /v1 itself: give it the address without /v1"),
        ("/v1/knwn", ". There is: /v1/known"),
        ("/v1/jobs/j1/event", ". There is: /v1/jobs/j1/events"),
        ("/v1/" + "known" * 100, "; GET /docs lists all."),
    ],
)
async def test_an_unknown_route_names_what_its_caller_may_have_meant(path: str, told: str) -> None:
    answer = await _ask("GET", path)
    assert answer.json()["error"]["message"] == f"No route GET {path}{told}"


async def test_embeddings_are_said_not_to_be_served() -> None:
    answer = await _ask("POST", "/v1/embeddings")
    assert answer.status_code == 404
    assert "embeddings are not served" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/mint/v1/known", {"code": "method_not_allowed", "retryable": False}),
        ("/v1/known", {"type": "invalid_request_error", "param": None, "code": None}),
        ("/v1/messages/known", {"type": "invalid_request_error"}),
    ],
)
async def test_a_method_that_a_route_does_not_take_is_said_in_the_shape_of_its_api(
    path: str, shape: dict[str, object]
) -> None:
    answer = await _ask("POST", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
    error = answer.json()["error"]
    assert error.pop("message").startswith(f"No route POST {path}; GET /docs lists all.")
    assert error == shape


async def test_a_client_of_tinker_is_told_not_to_try_an_unknown_method_again() -> None:
    answer = await _ask("POST", "/api/v1/known")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (405, "false")
    assert (
        answer.json()["detail"]
        == "No route POST /api/v1/known here: docs/guides/tinker.md lists what is served"
    )
