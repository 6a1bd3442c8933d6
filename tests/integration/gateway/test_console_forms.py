"""Keys and webhooks that are made at the console: their secrets are shown once."""

import re
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.gateway.console_rig import HOSTILE, browser, secret_of, token_of

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def person(stack, counter) -> Iterator[httpx.Client]:
    with browser(stack) as client:
        yield client


def test_a_new_key_is_shown_once_and_nowhere_else(stack, person):
    token = token_of(person.get("/console/keys"))
    form = {"form_token": token, "name": f"of a page {HOSTILE}", "read": "on"}
    assert person.post("/console/keys", data={**form, "form_token": "0" * 64}).status_code == 403
    made = person.post("/console/keys", data=form)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    assert "location" not in made.headers
    assert "<script>alert(1)" not in made.text
    key = secret_of(made)
    held = httpx.get(f"{stack.url}/mint/v1/whoami", headers={"authorization": f"Bearer {key}"}).json()
    assert held["scopes"] == ["read"]
    assert key not in person.get("/console/keys").text
    turned = person.post(f"/console/keys/{held['key_id']}/rotate", data={"form_token": token})
    assert secret_of(turned) != key
    with browser(stack, key=secret_of(turned)) as other:
        assert other.get("/console/keys").status_code == 403


def test_what_a_new_key_lacks_is_said_at_its_form_which_keeps_what_was_typed(person):
    token = token_of(person.get("/console/keys"))
    for typed, field in (({"name": "kept & typed"}, "scopes"), ({"name": "rule:x", "read": "on"}, "name")):
        refused = person.post("/console/keys", data={"form_token": token, **typed})
        assert refused.status_code == 422
        assert "Nothing was changed" in refused.text
        place = '<fieldset aria-describedby="problem"' if field == "scopes" else 'aria-invalid="true"'
        assert place in refused.text
    assert 'value="rule:x"' in refused.text
    assert re.search(r'name="read" value="on" checked', refused.text)


def test_a_webhook_is_made_paused_given_a_secret_and_removed(stack, person):
    token = {"form_token": token_of(person.get("/console/webhooks"))}
    form = {**token, "url": "https://hooks.example/mint", "event_types": "alias.moved, policy.created"}
    for bad, field in (({"url": "ftp://x"}, "url"), ({"event_types": "no.event"}, "event_types")):
        refused = person.post("/console/webhooks", data={**form, **bad, "description": HOSTILE})
        assert refused.status_code == 422
        assert re.search(rf'name="{field}"[^>]*aria-invalid="true"', refused.text)
        assert "&lt;script&gt;alert(1)" in refused.text
        assert "<script>alert(1)" not in refused.text
    made = person.post("/console/webhooks", data=form)
    assert made.status_code == 201
    secret, page = secret_of(made), re.search(r"/console/webhooks/wh_\w+", made.text)[0]
    assert secret.startswith("whsec_")
    assert secret not in person.get(page).text
    turned = person.post(f"{page}/rotate", data=token)
    assert secret_of(turned) != secret
    for state, said in (("paused", "hook-paused"), ("active", "activated")):
        answer = person.post(f"{page}/state", data={**token, "state": state})
        assert answer.headers["location"] == f"{page}?said={said}"
        assert person.get(f"/mint/v1{page.removeprefix('/console')}").json()["state"] == state
    assert person.post(f"{page}/state", data={**token, "state": "gone"}).status_code == 422
    assert person.post(f"{page}/remove", data=token).headers["location"] == "/console/webhooks?said=removed"
    assert person.get(page).status_code == 404
