"""Every route of the OpenAPI x every role x own and other tenant, over a running stack.

The routes of the Tinker API and all that can be done to a path are in tests/security/test_scopes.py.
"""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.gateway.receiver import Receiver
from tests.security.route_scopes import MAY, REST

pytestmark = pytest.mark.integration

SCHEMA = json.loads((Path(__file__).parents[2] / "golden/openapi/gateway.json").read_text())
SHARED = ("base", "task")
"""What path parameters name that is of no tenant."""


def _routes() -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, methods in SCHEMA["paths"].items()
        for method in methods
        if f"{method.upper()} {path}" in REST  # without the Tinker API, and what needs no key
    ]


ROUTES = _routes()


@dataclass(frozen=True, kw_only=True)
class World:
    """Keys of every role in one tenant, the other tenant's key, and what is the first one's alone."""

    keys: Mapping[str, str]
    other: str
    things: Mapping[str, str]
    secrets: frozenset[str]
    """Texts that no answer to the other tenant holds."""


@pytest.fixture(scope="module")
def world(stack, counter) -> Iterator[World]:
    receiver = Receiver()
    with stack.client() as mint:
        keys = {role: mint.post("/keys", json={"name": role, "scopes": [role]}).json() for role in MAY}
        tenant = mint.post("/tenants", json={"name": "matrix"}).json()["tenant_id"]
        other = mint.post(f"/tenants/{tenant}/keys", json={"name": "admin"}).json()["key"]
        hook = {"url": receiver.url, "event_types": ["alias.moved"]}
        webhook = mint.post("/webhooks", json=hook).json()["webhook"]["webhook_id"]
        for revision in (1, 2):
            mint.put("/policies/counter/aliases/mine", json={"revision": revision}).raise_for_status()
        receiver.wait_for(lambda found: len(found) == 2)
        rule = {"suite": "s", "metric": "m", "at_least": 1.0, "alias": "mine"}
        v1, auth = f"{stack.url}/v1", {"authorization": f"Bearer {stack.key}"}
        sent = {"files": {"file": b"a"}, "data": {"purpose": "evals"}}
        file = httpx.post(f"{v1}/files", headers=auth, **sent).json()["id"]
        begun = {"filename": "a", "purpose": "evals", "bytes": 1, "mime_type": "text/plain"}
        upload = httpx.post(f"{v1}/uploads", headers=auth, json=begun).json()["id"]
        rows = b'{"text": "a"}'
        sent = {"files": {"file": ("rows.jsonl", rows)}, "data": {"purpose": "fine-tune"}}
        trained_on = httpx.post(f"{v1}/files", headers=auth, **sent).json()["id"]
        wish = {"model": "tiny", "training_file": trained_on, "suffix": "matrix"}
        tuned = httpx.post(f"{v1}/fine_tuning/jobs", headers=auth, json=wish).json()["id"]
        job = {"policy": "counter", "task": "mode:copy", "steps": 1, "prompts_per_step": 1, "group_size": 2}
        things = {
            "policy": counter.policy_id,
            "revision": "1",
            "alias": "mine",
            "rule": mint.post("/policies/counter/rules", json=rule).json()["rule_id"],
            "key": keys["read"]["key_id"],
            "webhook": webhook,
            "delivery": receiver.received[0].headers["webhook-id"],
            "job": mint.post("/jobs", json=job).json()["job_id"],
            "run": _ended_run(mint),
            "digest": counter.latest.digest,
            "digest_or_id": counter.latest.digest,
            "change": "pin",
            "episode": "episode_of_nobody",
            "file": file,
            "fine_tuning_job": tuned,
            "upload": upload,
            "model": "counter",
            "tenant": stack.tenant_id,
            "base": "tiny",
            "task": "mode:copy",
        }
        hidden = {
            name: things[name]
            for name in (
                "policy",
                "rule",
                "webhook",
                "job",
                "run",
                "digest",
                "digest_or_id",
                "file",
                "upload",
                "fine_tuning_job",
            )
        }
        yield World(
            keys={role: made["key"] for role, made in keys.items()},
            other=other,
            things=things,
            secrets=frozenset({*hidden.values(), *(made["key_id"] for made in keys.values()), receiver.url}),
        )
        for made in keys.values():
            mint.delete(f"/keys/{made['key_id']}")
        mint.delete(f"/webhooks/{webhook}")
        httpx.post(f"{v1}/fine_tuning/jobs/{tuned}/cancel", headers=auth)
        for name in (file, trained_on):
            httpx.delete(f"{v1}/files/{name}", headers=auth)
        httpx.post(f"{v1}/uploads/{upload}/cancel", headers=auth)
    receiver.stop()


def _ended_run(mint: httpx.Client) -> str:
    """Return an evaluation run that changes nothing any more."""
    body = {"policy": "counter", "task": "mode:copy", "n": 1}
    run_id: str = mint.post("/evaluations/run", json=body).json()["run_id"]
    while mint.get(f"/evaluations/run/{run_id}").json()["state"] == "running":
        time.sleep(0.05)
    return run_id


def ask(
    stack, key: str | None, route: tuple[str, str], things: Mapping[str, str], body: object = None
) -> httpx.Response:
    """Send a request; of an event stream only the beginning is read."""
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    method, path = route
    url = stack.url + path.format_map(things)
    with httpx.stream(method, url, headers=headers, json=body, timeout=30) as answer:
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read = lambda: b""  # type: ignore[method-assign]  # it never ends
        else:
            answer.read()
        return answer


def example(method: str, path: str) -> object:
    """Return the schema's own example of a request's body."""
    operation = SCHEMA["paths"][path][method.lower()]
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    schema = content["schema"]
    if "examples" in schema:
        return schema["examples"][0]
    options = schema.get("anyOf", schema.get("oneOf", [schema]))
    named = next(option["$ref"].rpartition("/")[2] for option in options if "$ref" in option)
    return SCHEMA["components"]["schemas"][named]["examples"][0]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_without_a_key_no_route_answers(stack, world, method, path):
    for key in (None, "tml-wrong"):
        assert ask(stack, key, (method, path), world.things).status_code == 401


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_role_may_what_its_scope_says_and_nothing_else(stack, world, method, path):
    needed = REST[f"{method} {path}"]
    nobody = dict.fromkeys(world.things, "nobody")
    for role, allowed in MAY.items():
        status = ask(stack, world.keys[role], (method, path), nobody).status_code
        if needed in allowed:
            assert status not in (401, 403), role
            assert status < 500, role
        else:
            assert status == 403, role


ATTACKS = (
    ("GET", "/mint/v1/tenants"),
    ("GET", "/mint/v1/keys"),
    ("GET", "/mint/v1/audit"),
    ("GET", "/mint/v1/webhooks"),
    ("POST", "/mint/v1/tenants"),
    ("POST", "/mint/v1/keys"),
    ("POST", "/mint/v1/gc"),
    ("POST", "/mint/v1/policies/counter/rules"),
    ("POST", "/mint/v1/policies/counter/aliases/mine/protect"),
    ("POST", "/api/v1/asample"),
)
SUFFIXES = ("", "%0a", "%0d", "%00", "%2f", "/", "//", ";x", ".", "%20", "%3f")


@pytest.mark.parametrize(("method", "path"), ATTACKS)
def test_no_spelling_of_a_path_passes_the_scope(stack, world, method, path):
    """As they come from a socket: httpx would write some of them anew."""
    address = urlsplit(stack.url)
    for suffix in SUFFIXES:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        headers = {"authorization": f"Bearer {world.keys['read']}", "content-type": "application/json"}
        connection.request(method, path + suffix, body=b"{}", headers=headers)
        assert connection.getresponse().status in ({403, 404} if suffix else {403}), path + suffix
        connection.close()


def test_an_admin_takes_no_scope_and_no_key_from_the_operator(stack, world):
    for call in (
        ("POST", "/mint/v1/keys/key_bootstrap/rotate"),
        ("DELETE", "/mint/v1/keys/key_bootstrap"),
    ):
        answer = ask(stack, world.keys["admin"], call, {})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden"), call
    body = {"name": "more", "scopes": ["operator"]}
    answer = ask(stack, world.keys["admin"], ("POST", "/mint/v1/keys"), {}, body)
    assert answer.status_code == 403
    with stack.client() as mint:
        assert mint.get("/tenants").status_code == 200, "the operator's key is what it was"


@pytest.mark.parametrize("actor", ["rule:", "job:"])
def test_no_key_is_named_as_rules_and_jobs_sign(stack, world, actor):
    body = {"name": f"{actor}1", "scopes": ["read"]}
    answer = ask(stack, world.keys["admin"], ("POST", "/mint/v1/keys"), {}, body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_field")
    assert repr(actor) in answer.json()["error"]["message"]


def test_an_admin_rotates_and_revokes_what_it_could_have_made(stack, world):
    body = {"name": "mine", "scopes": ["read", "infer"]}
    made = ask(stack, world.keys["admin"], ("POST", "/mint/v1/keys"), {}, body).json()
    path = f"/mint/v1/keys/{made['key_id']}"
    rotated = ask(stack, world.keys["admin"], ("POST", f"{path}/rotate"), {}).json()
    assert rotated["scopes"] == ["read", "infer"]
    assert ask(stack, world.keys["admin"], ("DELETE", path), {}).status_code == 204


def test_a_revoked_admin_key_makes_no_key(stack, world):
    with stack.client() as mint:
        made = mint.post("/keys", json={"name": "leaving", "scopes": ["admin"]}).json()
        reading = ("GET", "/mint/v1/policies")
        assert ask(stack, made["key"], reading, {}).status_code == 200
        mint.delete(f"/keys/{made['key_id']}").raise_for_status()
    for call in (("POST", "/mint/v1/keys"), ("POST", "/mint/v1/keys/key_bootstrap/rotate")):
        answer = ask(stack, made["key"], call, {}, {"name": "lasting", "scopes": ["read"]})
        assert answer.status_code == 401, answer.text


def _own(path: str) -> bool:
    """Return whether a path names something that is a tenant's."""
    return "{" in path and not any(f"{{{name}}}" in path for name in SHARED)


@pytest.fixture(scope="module")
def untouched(stack, world) -> Iterator[None]:
    """All that the other tenant tried has changed nothing."""
    before = _snapshot(stack, world)
    yield
    assert _snapshot(stack, world) == before


def _snapshot(stack, world) -> object:
    policy, webhook = world.things["policy"], world.things["webhook"]
    parts = ("", "/revisions", "/aliases", "/aliases/mine", "/rules", "/evaluations")
    paths = [*(f"/policies/{policy}{part}" for part in parts), f"/webhooks/{webhook}", "/keys", "/policies"]
    with stack.client() as mint:
        found = [mint.get(path).json() for path in paths]
        jobs = (world.things[name] for name in ("job", "fine_tuning_job"))
        found += [mint.get(f"/jobs/{job}").json()["spec"] for job in jobs]
    for key in found[-4]:
        key.pop("last_used_at")
    return found


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if _own(route[1])])
def test_what_is_another_tenant_s_is_not_there(stack, world, untouched, method, path):
    expected = 403 if REST[f"{method} {path}"] == "operator" else 404
    for policy in (world.things["policy"], "counter"):
        things = {**world.things, "policy": policy}
        answer = ask(stack, world.other, (method, path), things, example(method, path))
        assert answer.status_code == expected, answer.text


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if not _own(route[1])])
def test_no_list_shows_what_is_another_tenant_s(stack, world, untouched, method, path):
    answer = ask(stack, world.other, (method, path), world.things, example(method, path))
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return  # tests/integration/gateway/test_events_and_residency.py
    assert answer.status_code < 500, answer.text
    if path == "/mint/v1/audit":  # the paths in it are what the other tenant itself has tried
        assert not {row["key_id"] for row in answer.json()} & world.secrets
    else:
        assert not any(secret in answer.text for secret in world.secrets)
    if method != "GET":
        assert answer.status_code != 401
