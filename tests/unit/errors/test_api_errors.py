"""Errors in the shapes of the inference APIs."""

import json

import pytest

from mint_common.api_errors import error_body, error_event, error_status
from mint_common.errors import InvalidField, NotFound, Overloaded, RequestRefused, Unauthorized, Unavailable
from mint_common.inference.operations import ApiOperation
from mint_common.inference.sizes import ContextExceeded


@pytest.mark.parametrize(
    ("error", "status", "param", "code", "anthropic"),
    [
        (NotFound(kind="policy", name="x", near="y"), 404, "model", "model_not_found", "not_found_error"),
        (InvalidField(field="n", problem="bad"), 400, "n", "invalid_field", "invalid_request_error"),
        (RequestRefused(field="n", problem="bad"), 400, "n", "invalid_field", "invalid_request_error"),
        (
            ContextExceeded(field="prompt", found=9, max_context=8),
            *(400, "prompt", "context_length_exceeded", "invalid_request_error"),
        ),
        (Unauthorized(problem="no"), 401, None, "invalid_api_key", "authentication_error"),
        (Overloaded(what="q", depth=3, retry_after_seconds=2), 429, None, "overloaded", "rate_limit_error"),
        (Unavailable(what="the engine", problem="x"), 503, None, "unavailable", "overloaded_error"),
    ],
)
def test_errors_have_the_shape_of_their_api(error, status, param, code, anthropic):
    body = error_body(error)["error"]
    assert error_status(error) == status
    assert (body["param"], body["code"], body["message"]) == (param, code, str(error))
    assert body["type"].endswith("_error")
    told = error_body(error, api="anthropic")
    assert told == {"type": "error", "error": {"type": anthropic, "message": str(error)}}


def test_a_model_to_which_none_is_near_is_answered_with_the_route_that_lists_them() -> None:
    body = error_body(NotFound(kind="model", name="x"))["error"]
    assert body["message"] == "No model named 'x'. GET /v1/models lists the models."
    assert error_body(NotFound(kind="file", name="x"))["error"]["message"] == "No file named 'x'."


def test_a_thread_is_refused_such_that_anthropics_clients_send_the_whole_conversation() -> None:
    told = error_body(InvalidField(field="thread", problem="no"), api="anthropic")
    assert told["error"]["details"]["error_code"] == "thread_unsupported_request"


@pytest.mark.parametrize(
    ("operation", "head"),
    [
        (ApiOperation.CHAT, ""),
        (ApiOperation.COMPLETION, ""),
        (ApiOperation.MESSAGE, "event: error\n"),
        (ApiOperation.RESPONSE, "event: error\n"),
    ],
)
def test_a_stream_that_fails_ends_with_an_event_of_its_api(operation, head):
    error = Unavailable(what="the engine", problem="it broke")
    event = error_event(operation, error).decode()
    assert event.startswith(f"{head}data: ")
    assert event.endswith("\n\n")
    assert str(error) in json.dumps(json.loads(event.partition("data: ")[2]))
