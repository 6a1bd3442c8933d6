"""The console's pages of one promotion rule and of one fine-tuning job, and what can be changed there."""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.gateway.console_rig import HOSTILE, browser, token_of
from tests.integration.gateway.test_fine_tuning import chat, lines

pytestmark = pytest.mark.integration

RULES = "/console/policies/detailed/rules"


@pytest.fixture(scope="module")
def person(stack, counter) -> Iterator[httpx.Client]:
    with browser(stack) as client:
        yield client


@pytest.fixture(scope="module")
def rule(stack) -> str:
    """A rule that has moved its alias to a revision, and seen a worse score."""
    stack.make_policy("detailed", revisions=2)
    with stack.client() as mint:
        here = "/policies/detailed"
        limits = {"at_least": 0.5, "roll_back_below": 0.25}
        body = {"suite": HOSTILE, "metric": "accuracy", "alias": "ruled", **limits}
        made = mint.post(f"{here}/rules", json=body).raise_for_status().json()
        for revision, value in ((1, 0.375), (2, 0.75)):
            score = {"revision": revision, "suite": HOSTILE, "metric": "accuracy", "value": value, "n": 4}
            mint.post(f"{here}/evaluations", json=score).raise_for_status()
        deadline = time.monotonic() + 60
        while mint.get(f"{here}/aliases/ruled").status_code == 404:
            assert time.monotonic() < deadline, "the rule moved nothing"
            time.sleep(0.1)
    return made["rule_id"]


@pytest.fixture(scope="module")
def job(stack, counter) -> Iterator[str]:
    """A job on a file that waits, as there is no trainer."""
    key = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=f"{stack.url}/v1", headers=key, timeout=60) as api:
        rows = lines(*(chat(f"{n}+9?", str(n + 9)) for n in range(12)))
        sent = {"file": ("<img src=x>.jsonl", rows)}
        file = api.post("/files", files=sent, data={"purpose": "fine-tune"}).raise_for_status().json()["id"]
        body = {"model": "tiny", "training_file": file, "suffix": "detailed"}
        made = api.post("/fine_tuning/jobs", json=body).raise_for_status().json()["id"]
        yield made
        api.post(f"/fine_tuning/jobs/{made}/cancel")
        api.delete(f"/files/{file}")


def test_a_rule_s_page_has_its_limits_its_moves_and_what_each_score_means(person, rule):
    assert f'href="{RULES}/{rule}"' in person.get(RULES).text
    assert f'href="{RULES}/{rule}"' in person.get("/console/policies/detailed/timeline").text
    text = person.get(f"{RULES}/{rule}").text
    assert "<dt>at_least<dd>0.5" in text
    assert "<dt>roll_back_below<dd>0.25" in text
    assert "max_drop" not in text
    assert "/aliases/ruled" in text
    assert 'points at <a href="/console/policies/detailed/revisions/2">@2</a>' in text
    assert "at least 0.5" in text
    for told in ('<td class="num">0.75<td>good enough', '<td class="num">0.375<td>not good enough'):
        assert told in text
    assert "<script>alert(1)" not in text
    assert f"mint rule pause detailed {rule}" in text


def test_a_rule_that_is_not_there_or_is_another_tenant_s_is_missing(stack, person, rule):
    assert person.get(f"{RULES}/rule_none").status_code == 404
    assert person.get(f"/console/policies/none/rules/{rule}").status_code == 404
    with browser(stack, key=stack.other_key) as other:
        page = other.get(f"{RULES}/{rule}")
        assert page.status_code == 404
        assert "0.375" not in page.text
        token = token_of(other.get("/console/keys"))
        refused = other.post(f"{RULES}/{rule}/remove", data={"form_token": token})
        assert refused.status_code == 404


@pytest.mark.parametrize("scopes", [["read"], ["read", "train"]])
def test_a_key_without_admin_reads_a_rule_and_changes_nothing(stack, rule, scopes):
    with stack.client() as mint:
        key = mint.post("/keys", json={"name": "-".join(scopes), "scopes": scopes}).json()["key"]
    with browser(stack, key=key) as client:
        page = client.get(f"{RULES}/{rule}")
        assert page.status_code == 200
        assert f"{rule}/remove" not in page.text
        assert client.post(f"{RULES}/{rule}/remove", data={}).status_code == 403
    with stack.client() as mint:
        assert [each["rule_id"] for each in mint.get("/policies/detailed/rules").json()] == [rule]


def test_a_rule_is_paused_resumed_and_removed(stack, person, rule):
    page = f"{RULES}/{rule}"
    token = token_of(person.get(page))

    def press(change: str) -> httpx.Response:
        return person.post(f"{page}/{change}", data={"form_token": token})

    assert person.post(f"{page}/pause", data={"form_token": "0" * 64}).status_code == 403
    assert press("explode").status_code == 422
    assert press("pause").headers["location"] == f"{page}?said=rule-paused"
    with stack.client() as mint:
        (paused,) = mint.get("/policies/detailed/rules").json()
        assert paused["paused"] is True
        assert "moves nothing until it is resumed" in person.get(f"{page}?said=rule-paused").text
        assert press("resume").headers["location"] == f"{page}?said=rule-resumed"
        assert mint.get("/policies/detailed/rules").json()[0]["paused"] is False
        assert press("remove").headers["location"] == f"{RULES}?said=removed"
        assert mint.get("/policies/detailed/rules").json() == []
    assert person.get(page).status_code == 404
    assert press("pause").status_code == 404


def test_a_fine_tuning_job_s_page_has_its_events_files_and_numbers(person, job):
    assert f'href="/console/fine_tuning/{job}"' in person.get("/console/files").text
    text = person.get(f"/console/fine_tuning/{job}").text
    assert text.rstrip().endswith("</html>")
    assert f"Created fine-tuning job: {job}" in text
    assert "Training, 12 rows:" in text
    assert "&lt;img src=x&gt;.jsonl" in text
    assert "<img src=x>.jsonl" not in text
    assert "mint job cancel job_" in text
    part = person.get(f"/console/fine_tuning/{job}", headers={"hx-request": "true"})
    assert "</html>" not in part.text
    assert f"Created fine-tuning job: {job}" in part.text
    managed = f"job_{job.removeprefix('ftjob-')}"
    assert f'href="/console/fine_tuning/{managed}"' in person.get(f"/console/jobs/{managed}").text
    assert person.get(f"/console/fine_tuning/{managed}").status_code == 200


def test_a_fine_tuning_job_that_is_not_there_or_is_another_tenant_s_is_missing(stack, person, job):
    assert person.get("/console/fine_tuning/ftjob-none").status_code == 404
    with browser(stack, key=stack.other_key) as other:
        for headers in ({}, {"hx-request": "true"}):
            page = other.get(f"/console/fine_tuning/{job}", headers=headers)
            assert page.status_code == 404
            assert "Training" not in page.text
        token = token_of(other.get("/console/keys"))
        refused = other.post(f"/console/fine_tuning/{job}/cancel", data={"form_token": token})
        assert refused.status_code == 404


def test_a_fine_tuning_job_is_cancelled_once_by_keys_that_train(stack, person, job):
    page = f"/console/fine_tuning/{job}"
    with stack.client() as mint:
        key = mint.post("/keys", json={"name": "sees-jobs", "scopes": ["read"]}).json()["key"]
    with browser(stack, key=key) as reader:
        text = reader.get(page).text
        assert f"{page}/cancel" not in text
        assert "/content" not in text
        assert reader.post(f"{page}/cancel", data={}).status_code == 403
    form = {"form_token": token_of(person.get(page))}
    assert person.post(f"{page}/cancel", data={"form_token": "0" * 64}).status_code == 403
    assert person.post(f"{page}/cancel", data=form).headers["location"] == f"{page}?said=cancelled"
    deadline = time.monotonic() + 60
    while "The job was cancelled" not in (text := person.get(page).text):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert f"{page}/cancel" not in text
    late = person.post(f"{page}/pause", data=form)
    assert late.status_code == 400
    assert "Nothing was changed" in late.text
