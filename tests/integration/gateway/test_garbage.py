"""Whatever a request says, no route of MinT's API answers 5xx: generated from the OpenAPI."""

import json
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.integration.gateway.test_authorisation import ROUTES, SCHEMA, example

pytestmark = pytest.mark.integration

MINE = [(method, path) for method, path in ROUTES if path.startswith("/mint/") and path != "/mint/v1/events"]
BODIES = [
    (method, path)
    for method, path in MINE
    if example(method, path) is not None and not path.endswith(("/gc", "/jobs"))  # they would work for good
]
TEXTS = [
    "",
    "\0",
    "a\0b",
    "a\nb",
    "é" * 300,
    "x" * 5000,
    "-1",
    "0",
    "1" * 30,
    "1" * 5000,
    "NaN",
    "..",
    "a/b",
    "@",
    "{",
]
VALUES = [None, True, -1, 0, 10**30, 1e308, [], {}, [[]], *TEXTS]
RAW = ["1e999", "1" * 5000, "-" + "9" * 400, '"\\ud800"', "[" * 2000, '{"a":' * 2000]
"""JSON that Python would not write."""


@pytest.fixture(scope="module")
def api(stack) -> Iterator[httpx.Client]:
    """A client, and a policy that anything may be done to; what fills a tenant's shares goes at the end."""
    stack.make_policy("garbled", revisions=2)
    headers = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as client:
        yield client
        for webhook in client.get("/mint/v1/webhooks").json():
            client.delete(f"/mint/v1/webhooks/{webhook['webhook_id']}")


def _parameters(method: str, path: str, place: str) -> list[str]:
    found = SCHEMA["paths"][path][method.lower()].get("parameters", [])
    return [parameter["name"] for parameter in found if parameter["in"] == place]


def _url(method: str, path: str, **given: str) -> str:
    """Return a path about the policy ``garbled``, or about what is given."""
    names = dict.fromkeys(_parameters(method, path, "path"), "nobody")
    known = {"policy": "garbled", "alias": "prod", "revision": "1", "base": "tiny", "change": "pin"}
    return path.format_map({name: given.get(name, known.get(name, text)) for name, text in names.items()})


def _check(answer: httpx.Response, said: object) -> None:
    assert answer.status_code < 500, f"{str(said)[:200]}: {answer.status_code} {answer.text[:500]}"
    if answer.status_code >= 400:
        assert len(answer.content) < 20_000


@pytest.mark.parametrize(("method", "path"), MINE)
def test_path_and_query_of_anything(api, method, path):
    for name in _parameters(method, path, "path"):
        for text in TEXTS:
            url = _url(method, path, **{name: quote(text, safe="")})
            _check(api.request(method, url, json=example(method, path)), url)
    for name in _parameters(method, path, "query"):
        for text in TEXTS:
            url = _url(method, path)
            _check(api.request(method, url, params={name: text}), {name: text})


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_body_of_anything(api, method, path):
    body, url = example(method, path), _url(method, path)
    for whole in ("", "null", "[]", "1", '"x"', *RAW):
        _check(_send(api, method, url, whole), whole)
    for field in body:
        for value in map(json.dumps, VALUES):
            _check(_send(api, method, url, _with(body, field, value)), {field: value})
        for text in RAW:
            _check(_send(api, method, url, _with(body, field, text)), {field: text})


def _with(body: dict[str, object], field: str, text: str) -> str:
    """Return a body whose field is a JSON text."""
    parts = [f"{json.dumps(name)}: {text if name == field else json.dumps(body[name])}" for name in body]
    return "{" + ", ".join(parts) + "}"


def _send(api: httpx.Client, method: str, url: str, text: str) -> httpx.Response:
    return api.request(method, url, content=text, headers={"content-type": "application/json"})


def test_any_text_is_a_key_that_is_not_known(stack):
    for key in ("x" * 501, "x" * 5000, "tml-", "é".encode("latin-1").decode("latin-1") * 3):
        answer = httpx.get(
            f"{stack.url}/mint/v1/policies", headers={"authorization": f"Bearer {key}".encode("latin-1")}
        )
        assert answer.status_code == 401, key
