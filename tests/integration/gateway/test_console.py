"""The console over real services: sessions, forms, races, other tenants, what a panel says of an outage."""

import re
import signal
from collections.abc import Iterator

import httpx
import pytest

from services.gateway.http.console.assets import ASSETS
from tests.integration.gateway.console_rig import HOSTILE, browser, token_of

pytestmark = pytest.mark.integration

PAGES = [
    "/console",
    "/console/faulty",
    "/console/timeline",
    "/console/policies",
    "/console/policies?name=count&base=tiny",
    "/console/policies/counter",
    "/console/policies/counter/timeline",
    "/console/policies/counter/rules",
    "/console/policies/counter/revisions/2",
    "/console/policies/counter/revisions/2?against=1",
    "/console/jobs",
    "/console/jobs?state=running&policy=x",
    "/console/jobs/compare",
    "/console/evaluations",
    "/console/residency",
    "/console/playground",
    "/console/files",
    "/console/events",
    "/console/find",
    "/console/webhooks",
    "/console/keys",
]


@pytest.fixture(scope="module")
def person(stack, counter) -> Iterator[httpx.Client]:
    with browser(stack) as client:
        yield client


def test_a_browser_without_a_session_signs_in_and_comes_back_to_its_page(stack, counter):
    with httpx.Client(base_url=stack.url, headers={"accept": "text/html"}) as client:
        assert client.get("/").headers["location"] == "/console"
        sent = client.get("/console/policies?name=count")
        assert (sent.status_code, sent.headers["location"]) == (
            303,
            "/console/signin?next=%2Fconsole%2Fpolicies%3Fname%3Dcount",
        )
        form = client.get(sent.headers["location"])
        assert 'value="/console/policies?name=count"' in form.text
        refused = client.post("/console/signin", data={"key": "tml-wrong", "next": "/console/jobs"})
        assert refused.status_code == 401
        assert 'role="alert"' in refused.text
        assert 'value="/console/jobs"' in refused.text
        assert "tml-wrong" not in refused.text
        for elsewhere in (
            "https://evil.example",
            "//evil.example",
            "/\\evil.example",
            "/console/\nx",
            "/consoles",
        ):
            answer = client.post("/console/signin", data={"key": stack.key, "next": elsewhere})
            assert answer.headers["location"] == "/console"
        cookie = answer.headers["set-cookie"]
        assert all(each in cookie for each in ("HttpOnly", "SameSite=lax", "Max-Age=43200"))
        assert stack.key not in cookie


def test_a_client_without_a_session_gets_the_api_s_refusal(stack):
    answer = httpx.get(f"{stack.url}/console/policies")
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_whole_and_runs_nothing_inline(person, page):
    answer = person.get(page)
    assert answer.status_code == 200
    assert answer.text.rstrip().endswith("</html>")
    assert "cannot be shown" not in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)|<[^>]*\s(?:style|on[a-z]+)=", answer.text)


def test_a_session_reads_the_api_and_changes_it_only_with_its_form_token(stack, person):
    token = token_of(person.get("/console/policies/counter"))
    assert person.get("/mint/v1/whoami").json()["tenant_id"] == stack.tenant_id
    body = {"name": "by-session", "base": "tiny"}
    for headers in ({}, {"x-mint-form": "0" * 64}):
        refused = person.post("/mint/v1/policies", json=body, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    assert person.post("/mint/v1/policies", json=body, headers={"x-mint-form": token}).status_code == 201
    for form in ({}, {"form_token": "0" * 64}):
        moved = person.post("/console/policies/counter/aliases/no/move", data={**form, "revision": "1"})
        assert moved.status_code == 403
    assert person.get("/mint/v1/policies/counter/aliases/no").status_code == 404
    with person.stream("GET", "/mint/v1/events") as events:
        assert events.status_code == 200


def test_a_cookie_of_nobody_opens_nothing(stack):
    for cookie in ("", "x", "a" * 5000, "gAAAAABnotasession"):
        answer = httpx.get(f"{stack.url}/mint/v1/whoami", headers={"cookie": f"mint_session={cookie}"})
        assert answer.status_code == 401


def test_two_tabs_race_for_an_alias_and_the_later_one_hears_what_happened(person):
    page = "/console/policies/counter/aliases/raced"
    token = token_of(person.get("/console/policies/counter"))
    made = person.post(
        "/console/policies/counter/aliases",
        data={"form_token": token, "alias": "raced", "revision": "1", "expected": "", "reason": "first"},
    )
    assert made.headers["location"] == f"{page}?said=moved"
    expected = re.search(r'name="expected" value="(sha256:[0-9a-f]{64})"', person.get(page).text)[1]
    form = {"form_token": token, "expected": expected}
    one = person.post(f"{page}/move", data={**form, "revision": "2", "reason": "one tab"})
    assert one.status_code == 303
    other = person.post(f"{page}/move", data={**form, "revision": "3", "reason": "typed & kept"})
    assert other.status_code == 412
    assert "Nothing was changed" in other.text
    assert "moved it to @2" in other.text
    assert "one tab" in other.text
    assert 'value="typed &amp; kept"' in other.text
    assert person.get("/mint/v1/policies/counter/aliases/raced").json()["revision"]["number"] == 2
    fresh = re.search(r'name="expected" value="(sha256:[0-9a-f]{64})"', person.get(page).text)[1]
    back = person.post(f"{page}/rollback", data={"form_token": token, "expected": fresh, "reason": "worse"})
    assert back.headers["location"] == f"{page}?said=rolled-back"
    assert person.get("/mint/v1/policies/counter/aliases/raced").json()["revision"]["number"] == 1
    assert "The alias was rolled back." in person.get(f"{page}?said=rolled-back").text
    bad = person.post(f"{page}/move", data={"form_token": token, "expected": fresh, "revision": "99"})
    assert bad.status_code in {404, 412, 422}


@pytest.mark.parametrize("step", ["0", "x", "-1", "\u0663", "9" * 9, "9" * 5000])
def test_steps_that_no_job_has_are_a_page_that_says_so(person, step):
    answer = person.get("/console/jobs/job_none/rollouts/steps", params={"step": step})
    assert answer.status_code == 404
    assert "job_none" in answer.text


def test_each_button_is_one_change_and_says_what_was_done_or_why_not(stack, person):
    stack.make_policy("buttons", revisions=2)
    with stack.client() as mint:
        mint.put("/policies/buttons/aliases/pressed", json={"revision": 1})
        key = mint.post("/keys", json={"name": "to-revoke", "scopes": ["read"]}).json()["key_id"]
    token = token_of(person.get("/console/policies/buttons"))
    alias, revision = "/console/policies/buttons/aliases/pressed", "/console/policies/buttons/revisions/2"
    for path, form, place in (
        (f"{alias}/freeze", {"frozen": "true"}, f"{alias}?said=frozen"),
        (f"{alias}/freeze", {"frozen": "false"}, f"{alias}?said=unfrozen"),
        (f"{alias}/protect", {"protected": "true"}, f"{alias}?said=protected"),
        (f"{revision}/retire", {}, f"{revision}?said=retired"),
        (f"{revision}/restore", {}, f"{revision}?said=restored"),
        (f"/console/keys/{key}/revoke", {}, "/console/keys?said=revoked"),
    ):
        answer = person.post(path, data={"form_token": token, **form})
        assert (answer.status_code, answer.headers.get("location")) == (303, place)
        assert 'class="said"' in person.get(place).text
    assert person.get("/mint/v1/policies/buttons/aliases/pressed").json()["protected"] is True
    for unknown in ("jobs/job_none/episodes", "residency/sha256:0/remove", "policies/buttons/revisions/1/x"):
        assert person.post(f"/console/{unknown}", data={"form_token": token}).status_code == 422
    refused = person.post("/console/jobs/job_none/cancel", data={"form_token": token})
    assert refused.status_code == 404
    assert "Nothing was changed" in refused.text


def test_what_is_another_tenant_s_is_not_there(stack, counter):
    with browser(stack, key=stack.other_key) as client:
        for page in ("/console/policies/counter", "/console/policies/counter/revisions/1"):
            assert client.get(page).status_code == 404
        assert "counter" not in client.get("/console/policies").text
        found = client.get("/console/find", params={"q": counter.latest.digest if counter.latest else ""})
        assert "counter" not in found.text


def test_a_key_s_scopes_decide_what_is_offered(stack, counter):
    with stack.client() as mint:
        made = mint.post("/keys", json={"name": "looks-only", "scopes": ["read"]}).json()
    with browser(stack, key=made["key"]) as client:
        page = client.get("/console/policies/counter/revisions/1")
        assert page.status_code == 200
        assert "Retire" not in page.text
        assert "/console/keys" not in page.text
        refused = client.get("/console/keys")
        assert refused.status_code == 403
        assert "admin" in refused.text


def test_hostile_text_is_text(stack, person):
    with stack.client() as mint:
        body = {"name": "hostile", "base": "tiny", "description": HOSTILE}
        assert mint.post("/policies", json=body).status_code == 201
    for page in ("/console/policies", "/console/policies/hostile"):
        text = person.get(page).text
        assert "<script>alert(1)" not in text
        assert "<img src=x" not in text
        assert "&lt;script&gt;alert(1)" in text
    for page in (
        f"/console/find?q={HOSTILE}",
        f"/console/policies?name={HOSTILE}",
        "/console/jobs/<img src=x onerror=alert(2)>",
    ):
        assert "<img src=x" not in person.get(page).text


def test_an_answer_is_found_by_its_revision(stack, person):
    with stack.client() as mint:
        digest = mint.get("/policies/counter/revisions/2").json()["digest"]
        assert [each["policy"] for each in mint.get(f"/revisions/{digest}").json()] == ["counter"]
    for text in (digest, digest.removeprefix("sha256:"), f"x-mint-revision: {digest}"):
        assert "counter@2" in person.get("/console/find", params={"q": text}).text
    assert "has no digest" in person.get("/console/find", params={"q": "hello"}).text


def test_an_answer_is_found_by_its_id_with_the_aliases_that_pointed_at_its_revision(stack, person):
    reason = "because <b>"
    with stack.client() as mint:
        for revision in (1, 2, 1):
            move = {"revision": revision, "reason": reason}
            mint.put("/policies/counter/aliases/exposing", json=move).raise_for_status()
        digest = mint.get("/policies/counter/revisions/2").json()["digest"]
    key = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=f"{stack.url}/v1", headers=key, timeout=60) as api:
        asked = {"prompt": "hi", "max_tokens": 4}
        answer = api.post("/completions", json={"model": "counter@2", **asked}).raise_for_status().json()
        base = api.post("/completions", json={"model": "tiny", **asked}).raise_for_status().json()
    assert answer["id"].endswith(digest.removeprefix("sha256:")[:16])
    text = person.get("/console/find", params={"q": answer["id"]}).text
    for shown in ("counter@2", digest, "aliases/exposing", "because &lt;b&gt;", "no job made it"):
        assert shown in text
    assert 'aliases/exposing">exposing</a><td><time' in text
    for text in (base["id"], "base:tiny"):
        assert "A base gave that answer" in person.get("/console/find", params={"q": text}).text
    with browser(stack, key=stack.other_key) as other:
        assert "counter" not in other.get("/console/find", params={"q": answer["id"]}).text
    with stack.client() as mint:
        for text in (answer["id"], digest[7:23]):
            (found,) = mint.get(f"/revisions/{text}").json()
            assert (found["policy"], found["revision"]["digest"]) == ("counter", digest)
        for text in ("hello", digest[7:22], answer["id"][:-1]):
            assert mint.get(f"/revisions/{text}").status_code == 404
        periods = mint.get("/policies/counter/revisions/2/aliases").json()
        (period,) = [each for each in periods if each["alias"] == "exposing"]
        assert period["reason"] == reason
        assert period["since"] < period["until"]
        assert mint.get(f"/revisions/{base['id']}").status_code == 404


def test_names_are_found_by_their_beginning(stack, person):
    with stack.client() as mint:
        for name in ("begin-a", "begin-b", "beginner"):
            mint.post("/policies", json={"name": name, "base": "tiny", "labels": {"kind": "searched"}})
        for filters in ({}, {"labels": "kind=searched"}, {"base": "tiny"}):
            found = mint.get("/policies", params={"prefix": "begin-", **filters}).json()
            assert [policy["name"] for policy in found] == ["begin-a", "begin-b"]
        by_time = mint.get("/policies", params={"prefix": "begin", "created_after": 1}).json()
        assert len(by_time) == 3
    assert "beginner" not in person.get("/console/policies", params={"name": "begin-"}).text


def test_a_part_that_is_down_leaves_its_panel_saying_so(stack, person):
    stack.kill("rollout")
    try:
        page = person.get("/console")
        assert page.status_code == 200
        assert "Jobs cannot be shown." in page.text
        assert "Bases" in page.text
        assert person.get("/console/jobs").status_code == 200
    finally:
        stack.start("rollout")


def test_find_says_that_the_registry_does_not_answer(stack, person):
    with stack.client() as mint:
        digest = mint.get("/policies/counter/revisions/1").json()["digest"]
    stack.processes["registry"].send(signal.SIGSTOP)
    try:
        page = person.get("/console/find", params={"q": digest}, timeout=30)
    finally:
        stack.processes["registry"].send(signal.SIGCONT)
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert f'value="{digest}"' in page.text, "what was typed is kept"
    assert "counter@1" in person.get("/console/find", params={"q": digest}).text


def test_signing_out_ends_the_session_of_the_browser(stack):
    with browser(stack) as client:
        assert client.get("/console").status_code == 200
        client.post("/console/signout")
        assert client.get("/console").status_code == 303


def test_another_site_s_form_signs_nobody_in_or_out(stack):
    for path in ("signin", "signout"):
        headers = {"sec-fetch-site": "cross-site", "accept": "text/html"}
        answer = httpx.post(f"{stack.url}/console/{path}", data={"key": stack.key}, headers=headers)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        own = stack.url.removeprefix("http://")
        for origin, status in (
            (f"http://{own}", 303),
            ("http://evil.test", 403),
            ("null", 403),
            ("http://[", 403),
        ):
            headers = {"origin": origin, "accept": "text/html"}
            answer = httpx.post(f"{stack.url}/console/{path}", data={"key": stack.key}, headers=headers)
            assert answer.status_code == status, origin
            assert ("set-cookie" in answer.headers) == (status == 303)


def test_static_files_are_small_and_kept(stack):
    assert ASSETS.sent_bytes <= 150_000
    answer = httpx.get(f"{stack.url}{ASSETS.address('console.css')}", headers={"accept-encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    for version in ("", "?v=", "?v=" + "0" * 12):
        other = httpx.get(f"{stack.url}/console/static/console.css{version}")
        assert other.headers["cache-control"] == "no-cache", "another gateway's version, in an upgrade"
    assert answer.headers["content-type"].startswith("text/css")
    assert httpx.get(f"{stack.url}/console/static/../app.py").status_code == 404
    assert httpx.get(f"{stack.url}/console/static/%2e%2e%2fapp.py").status_code == 404
