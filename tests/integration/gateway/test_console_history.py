"""What the console tells of a whole policy or tenant: its history, what it uses, what is lost."""

import asyncio
import time
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from tests.integration.gateway.console_rig import HOSTILE, browser

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def person(stack, counter) -> Iterator[httpx.Client]:
    with browser(stack) as client:
        yield client


@pytest.fixture(scope="module")
def timed(stack):
    """Make a policy with moves, a removed alias, scores, a rule that moved an alias, and an ended job."""
    stack.make_policy("timed", revisions=2)
    with stack.client() as mint:
        here = "/policies/timed"
        rule = {"suite": HOSTILE, "metric": "accuracy", "at_least": 0.5, "alias": "ruled"}
        made = mint.post(f"{here}/rules", json=rule).raise_for_status().json()
        mint.put(f"{here}/aliases/old", json={"revision": 1, "reason": HOSTILE}).raise_for_status()
        mint.put(f"{here}/aliases/old", json={"revision": 2}).raise_for_status()
        mint.delete(f"{here}/aliases/old").raise_for_status()
        score = {"revision": 2, "suite": HOSTILE, "metric": "accuracy", "value": 0.75, "n": 4}
        mint.post(f"{here}/evaluations", json=score).raise_for_status()
        job = {"policy": "timed", "task": "mode:copy", "steps": 2, "prompts_per_step": 1, "group_size": 2}
        job_id = mint.post("/jobs", json=job).raise_for_status().json()["job_id"]
        mint.post(f"/jobs/{job_id}/cancel").raise_for_status()
        deadline = time.monotonic() + 60
        while mint.get(f"{here}/aliases/ruled").status_code == 404:
            assert time.monotonic() < deadline, "the rule moved nothing"
            time.sleep(0.1)
    return made["rule_id"], job_id


def test_a_policy_has_one_history_which_pages_cut_anywhere(stack, timed):
    rule_id, job_id = timed
    with stack.client() as mint:
        whole = mint.get("/policies/timed/timeline").json()
        assert sorted(entry["kind"] for entry in whole) == [
            "alias.moved",
            "alias.moved",
            "alias.moved",
            "alias.removed",
            "evaluation.recorded",
            "job.finished",
            "job.submitted",
            "revision.published",
            "revision.published",
        ]
        assert [entry["at"] for entry in whole] == sorted((entry["at"] for entry in whole), reverse=True)
        assert f"rule:{rule_id}" in [entry["actor"] for entry in whole]
        ended = next(entry for entry in whole if entry["kind"] == "job.finished")
        assert (ended["subject"], ended["reason"]) == (job_id, "cancelled: cancelled by its user")
        for size in (1, 2, 4, 8, 9, 10):
            paged, before = [], {}
            while page := mint.get("/policies/timed/timeline", params={"limit": size, **before}).json():
                assert len(page) <= size
                paged += page
                before = {"before": page[-1]["place"]}
            assert paged == whole
        for bad in ("x", "1-", "9" * 16, f"{'9' * 16}-" + "a" * 400, "1764670000000000-\x00"):
            refused = mint.get("/policies/timed/timeline", params={"before": bad})
            assert (refused.status_code, refused.json()["error"]["field"]) == (422, "before")
        assert mint.get("/policies/none/timeline").status_code == 404
    with stack.client(key=stack.other_key) as other:
        assert other.get("/policies/timed/timeline").status_code == 404


def test_a_tenant_has_one_history_of_all_its_policies(stack, person, timed):
    """Equal aliases of two policies are entries of their own, and pages cut between them."""
    other_id = stack.make_policy("timed-too", revisions=1).policy_id
    with stack.client() as mint:
        mint.put("/policies/timed-too/aliases/old", json={"revision": 1}).raise_for_status()
        named = mint.get("/policies/timed").json()["policy_id"]
        whole = mint.get("/timeline", params={"limit": 1000}).json()
        places = [entry["place"] for entry in whole]
        assert places == sorted(set(places), reverse=True)
        for name, policy_id in (("timed", named), ("timed-too", other_id)):
            own = [entry for entry in whole if entry["policy_id"] == policy_id]
            assert own == mint.get(f"/policies/{name}/timeline", params={"limit": 1000}).json()
            assert {entry["policy"] for entry in own} == {name}
        assert len({entry["place"] for entry in whole if entry["subject"] == "old"}) == 4
        for size in (1, 3, 7):
            paged, before = [], {}
            while len(paged) < min(len(whole), 15):
                page = mint.get("/timeline", params={"limit": size, **before}).json()
                paged += page
                before = {"before": page[-1]["place"]}
            assert paged == whole[: len(paged)]
        for bad in ("x", "1-", "1764670000000000-\x00"):
            refused = mint.get("/timeline", params={"before": bad})
            assert (refused.status_code, refused.json()["error"]["field"]) == (422, "before")
    with stack.client(key=stack.other_key) as other:
        seen = {entry["policy_id"] for entry in other.get("/timeline", params={"limit": 1000}).json()}
        assert seen.isdisjoint({named, other_id})
        theirs = {policy["policy_id"] for policy in other.get("/policies", params={"limit": 1000}).json()}
        assert seen <= theirs
    for page in ("/console", "/console/timeline"):
        text = person.get(page).text
        assert f'href="/console/policies/{other_id}">timed-too</a>' in text
        assert f'href="/console/policies/{other_id}/aliases/old"' in text
        assert "<script>alert(1)" not in text
    assert person.get("/console/timeline?before=x").status_code == 422


def test_a_history_is_shown_at_its_policy_and_whole(person, timed):
    rule_id, job_id = timed
    for page in ("/console/policies/timed", "/console/policies/timed/timeline"):
        text = person.get(page).text
        assert f'href="/console/jobs/{job_id}"' in text
        assert "scores 0.75 in &lt;script&gt;" in text
        assert "<script>alert(1)" not in text
    assert person.get("/console/policies/timed/timeline?before=x").status_code == 422
    rules = person.get("/console/policies/timed/rules").text
    assert rule_id in rules
    assert "Newest scores it looks at" in rules
    assert rules.count('revisions/2">@2</a>') == 1
    assert "<script>alert(1)" not in rules
    assert person.get("/console/policies/none/rules").status_code == 404


def quotas_of(mint: httpx.Client) -> dict[str, dict]:
    return {use["name"]: use for use in mint.get("/usage").raise_for_status().json()}


def test_what_a_tenant_uses_is_counted_beside_its_limits(stack, person):
    with stack.client(key=stack.other_key) as mint:
        before = quotas_of(mint)
        made = mint.post("/keys", json={"name": "counted", "scopes": ["read"]}).json()
        mint.post("/policies", json={"name": "counted", "base": "tiny"}).raise_for_status()
        after = quotas_of(mint)
        for name in ("keys", "policies"):
            assert after[name]["used"] == before[name]["used"] + 1
            assert after[name]["used"] <= after[name]["limit"]
        assert after["job_seconds"]["limit"] is None
        assert {"adapters", "adapter_bytes", "open_jobs", "sessions", "webhooks"} <= set(after)
        mint.delete(f"/keys/{made['key_id']}").raise_for_status()
        assert quotas_of(mint)["keys"] == before["keys"]
    page = person.get("/console").text
    assert "Bytes of stored adapters" in page
    assert "<td>API keys" in page


def test_what_cannot_be_served_is_listed_over_all_policies(stack, person):
    names = ("broken-a", "broken-b")
    with stack.client() as mint:
        made = {stack.make_policy(name, revisions=2).policy_id: name for name in names}
        mint.put("/policies/broken-a/aliases/prod", json={"revision": 1}).raise_for_status()
        _execute(stack, "UPDATE revisions SET state = 'quarantined' WHERE policy_id = ANY($1)", [*made])
        _execute(
            stack,
            "UPDATE revisions SET state = 'published', fault = 'missing' "
            "WHERE policy_id = ANY($1) AND number = 2",
            [*made],
        )
        listed = [each for each in mint.get("/revisions/faulty").json() if each["policy"] in names]
        places = [(made_id, number) for made_id in sorted(made) for number in (1, 2)]
        assert [(each["policy"], each["number"]) for each in listed] == [
            (made[policy_id], number) for policy_id, number in places
        ]
        assert {(each["number"], each["state"], each["fault"]) for each in listed} == {
            (1, "quarantined", None),
            (2, "published", "missing"),
        }
        assert [each["aliases"] for each in listed if each["policy"] == "broken-a"] == [["prod"], []]
        paged, after = [], {}
        while page := mint.get("/revisions/faulty", params={"limit": 1, **after}).json():
            paged += page
            after = {"after": page[-1]["place"]}
        assert [each for each in paged if each["policy"] in names] == listed
        assert mint.get("/revisions/faulty", params={"after": "x"}).status_code == 422
        overview = person.get("/console").text
        assert "is quarantined" in overview or "More revisions cannot be served" in overview
        text = person.get("/console/faulty").text
        assert "broken-a@1" in text
        assert "/console/policies/broken-a/aliases/prod" in text
        mint.post("/policies/broken-a/revisions/1/restore").raise_for_status()
        left = [each["place"] for each in mint.get("/revisions/faulty").json()]
        assert listed[0 if listed[0]["policy"] == "broken-a" else 2]["place"] not in left
    with stack.client(key=stack.other_key) as other:
        assert other.get("/revisions/faulty").json() == []


def _execute(stack, statement: str, *args) -> None:
    async def ask() -> None:
        connection = await asyncpg.connect(stack.dsn, server_settings={"search_path": "registry"})
        try:
            await connection.execute(statement, *args)
        finally:
            await connection.close()

    asyncio.run(ask())
