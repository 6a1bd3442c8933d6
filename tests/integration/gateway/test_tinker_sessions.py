"""Tinker sessions over HTTP, as clients begin and end them, and the errors of the API."""

import httpx
import pytest
import zstandard
from tinker.types import GetServerCapabilitiesResponse

from mint_common.ids import new_id

pytestmark = pytest.mark.integration


def _session(stack, **wish: object) -> str:
    with stack.tinker_api() as api:
        answer = api.post("/create_session", json={"tags": [], "sdk_version": "0.38.0", **wish})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["session_id"])


def test_capabilities_name_bases_as_clients_know_them(stack):
    with stack.tinker_api() as api:
        models = api.get("/get_server_capabilities").json()["supported_models"]
    assert (f"mint/{stack.facts.name}", True) in [(each["model_name"], each["sampleable"]) for each in models]
    assert GetServerCapabilitiesResponse.model_validate({"supported_models": models})


def test_a_session_lives_until_it_is_finished(stack):
    session_id = _session(stack, display_name="mine", user_metadata={"n": 3, "s": "t", "none": None})
    with stack.tinker_api() as api:
        assert api.post("/session_heartbeat", json={"session_id": session_id}).json() == {
            "type": "session_heartbeat"
        }
        finish = {"reason": {"type": "success"}, "detail": None}
        assert api.post(f"/sessions/{session_id}/finish", json=finish).status_code == 204
        assert api.put(f"/sessions/{session_id}/project", json={"project_id": "p"}).status_code == 204


def test_a_foreign_or_unknown_session_is_gone(stack):
    session_id = _session(stack)
    for key, name in ((stack.other_key, session_id), (stack.key, new_id("ses")), (stack.key, "\x00'")):
        with stack.tinker_api(key=key) as api:
            assert api.post("/session_heartbeat", json={"session_id": name}).status_code == 410
    with stack.tinker_api(key=stack.other_key) as api:
        finish = api.post(f"/sessions/{session_id}/finish", json={"reason": {"type": "success"}})
        assert finish.status_code == 404


@pytest.mark.parametrize(
    ("request_line", "content", "status", "detail"),
    [
        ("POST /create_session", b"{", 422, "is not JSON"),
        ("POST /create_session", b'{"tags": 5}', 422, "'tags'"),
        ("POST /create_session", b'{"display_name": "a\\u0000"}', 422, "NUL"),
        ("POST /create_session", b'{"display_name": "\\ud800"}', 422, "is not JSON"),
        ("POST /create_session", b'{"user_metadata": {"a": "' + 20_000 * b"x" + b'"}}', 422, "16384"),
        ("POST /retrieve_future", b'{"request_id": "op:pass:1:nobody"}', 410, "submit it again"),
        ("POST /retrieve_future", b'{"request_id": "?"}', 410, "submit it again"),
        ("GET /no/such/route", b"", 404, "docs/guides/tinker.md"),
        ("GET /create_session", b"", 405, "No route"),
    ],
)
def test_errors_say_what_is_wrong_and_are_not_retried(stack, request_line, content, status, detail):
    method, path = request_line.split()
    with stack.tinker_api() as api:
        answer = api.request(method, path, content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (status, "false")
    assert detail in answer.json()["detail"]


def test_bodies_are_bounded_before_and_after_decompression(stack):
    bomb = zstandard.compress(bytes(200 << 20))
    headers = {"content-encoding": "zstd"}
    with stack.tinker_api() as api:
        assert api.post("/create_session", content=bomb, headers=headers).status_code == 413
        assert api.post("/create_session", content=b"junk", headers=headers).status_code == 422
        assert (
            api.post("/create_session", content=b"x", headers={"content-encoding": "br"}).status_code == 422
        )
        packed = zstandard.compress(b'{"tags": [], "sdk_version": "x"}')
        assert api.post("/create_session", content=packed, headers=headers).status_code == 200
        assert api.post("/create_session", content=bytes(17 << 20)).status_code == 413


def test_a_key_is_asked_for_first(stack):
    answer = httpx.post(f"{stack.url}/api/v1/create_session", content=bytes(17 << 20))
    assert answer.status_code == 401
    assert "detail" in answer.json()


def test_telemetry_is_accepted_and_not_kept(stack):
    event = {
        "event": "GENERIC_EVENT",
        "severity": "ERROR",
        "event_data": {"request_headers": {"k": "secret"}},
    }
    with stack.tinker_api() as api:
        answer = api.post("/telemetry", json={"events": [event], "sdk_version": "x", "session_id": "s"})
    assert answer.json() == {"status": "accepted"}
