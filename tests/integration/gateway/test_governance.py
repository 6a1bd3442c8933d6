"""Keys and their scopes, protection, retirement and rules through the public API."""

import time

import httpx
import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack, counter):
    with stack.client() as client:
        yield client


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_key_does_what_its_scopes_allow_until_it_is_revoked(stack, mint):
    made = mint.post("/keys", json={"name": "ci", "scopes": ["read"]}).json()
    with stack.client(key=made["key"]) as reader:
        assert reader.get("/policies").status_code == 200
        assert refusal(reader.post("/policies", json={"name": "no", "base": "tiny"})) == (403, "forbidden")
        assert refusal(reader.get("/keys")) == (403, "forbidden")
    listed = {key["key_id"]: key for key in mint.get("/keys").json()}
    assert listed[made["key_id"]]["scopes"] == ["read"]
    assert listed[made["key_id"]]["last_used_at"] is not None
    assert "key" not in listed[made["key_id"]]
    rotated = mint.post(f"/keys/{made['key_id']}/rotate").json()
    assert rotated["key"] != made["key"]
    with stack.client(key=rotated["key"]) as reader:
        assert reader.get("/policies").status_code == 200
    assert mint.delete(f"/keys/{made['key_id']}").status_code == 204
    assert refusal(mint.post(f"/keys/{made['key_id']}/rotate")) == (404, "not_found")
    assert mint.delete("/keys/key_none").status_code == 404


def test_only_an_operator_makes_tenants(stack, mint):
    tenant = mint.post("/tenants", json={"name": "made-here"}).json()
    assert "made-here" in [found["name"] for found in mint.get("/tenants").json()]
    first = mint.post(f"/tenants/{tenant['tenant_id']}/keys", json={"name": "admin"}).json()
    with stack.client(key=first["key"]) as admin:
        assert admin.get("/policies").json() == []
        assert refusal(admin.get("/tenants")) == (403, "forbidden")
        grab = {"name": "x", "scopes": ["operator"]}
        assert refusal(admin.post("/keys", json=grab)) == (403, "forbidden")


def test_protected_alias_takes_an_admin_key(stack, mint):
    url = "/policies/counter/aliases/guarded"
    mint.put(url, json={"revision": 1})
    assert mint.post(f"{url}/protect", json={"protected": True}).json()["protected"] is True
    key = mint.post("/keys", json={"name": "trainer", "scopes": ["read", "train"]}).json()["key"]
    with stack.client(key=key) as trainer:
        assert refusal(trainer.put(url, json={"revision": 2})) == (403, "alias_protected")
    assert mint.put(url, json={"revision": 2}).status_code == 200
    history = mint.get(f"{url}/history", params={"limit": 1}).json()
    assert [move["sequence"] for move in history] == [2]
    assert [move["sequence"] for move in mint.get(f"{url}/history", params={"before": 2}).json()] == [1]


def test_revision_is_retired_and_restored(stack, mint):
    stack.make_policy("retiring", revisions=2)
    mint.put("/policies/retiring/aliases/prod", json={"revision": 2})
    url = "/policies/retiring/revisions"
    assert refusal(mint.post(f"{url}/2/retire")) == (422, "revision_in_use")
    assert mint.post(f"{url}/1/retire").json()["state"] == "retired"
    assert refusal(mint.put("/policies/retiring/aliases/old", json={"revision": 1})) == (
        404,
        "revision_retired",
    )
    assert mint.post(f"{url}/1/restore").json()["state"] == "published"
    assert mint.put("/policies/retiring/aliases/old", json={"revision": 1}).status_code == 200


def test_rule_promotes_and_rolls_back_by_scores(stack, mint):
    stack.make_policy("ruled", revisions=2)
    wish = {"suite": "s", "metric": "m", "at_least": 0.8, "roll_back_below": 0.5}
    rule = mint.post("/policies/ruled/rules", json=wish).json()
    assert [one["rule_id"] for one in mint.get("/policies/ruled/rules").json()] == [rule["rule_id"]]
    assert mint.post("/policies/ruled/rules", json=wish | {"at_least": 0.1}).status_code == 422
    for revision, value, live in ((1, 0.9, 1), (2, 0.85, 2), (2, 0.3, 1)):
        score = {"revision": revision, "suite": "s", "metric": "m", "value": value, "n": 4}
        assert mint.post("/policies/ruled/evaluations", json=score).status_code == 201
        deadline = time.monotonic() + 20
        while live_revision(mint) != live:
            assert time.monotonic() < deadline, (revision, value)
            time.sleep(0.02)
    history = mint.get("/policies/ruled/aliases/prod").json()["history"]
    assert {move["actor"] for move in history} == {f"rule:{rule['rule_id']}"}
    assert mint.delete(f"/policies/ruled/rules/{rule['rule_id']}").status_code == 204
    assert mint.get("/policies/ruled/rules").json() == []


def live_revision(mint) -> int | None:
    answer = mint.get("/policies/ruled/aliases/prod")
    return answer.json()["revision"]["number"] if answer.status_code == 200 else None


def test_people_pause_rules_and_freeze_aliases(stack, mint):
    stack.make_policy("cooled", revisions=2)
    alias, rules = "/policies/cooled/aliases/prod", "/policies/cooled/rules"
    made = mint.put(alias, json={"revision": 1}).json()
    assert made["moved_by"] == ["train", "admin", "rule"]
    protected = mint.post(f"{alias}/protect", json={"protected": True}).json()
    assert protected["moved_by"] == ["admin", "rule"]
    frozen = mint.post(f"{alias}/freeze", json={"frozen": True}).json()
    assert (frozen["frozen"], frozen["moved_by"]) == (True, ["admin"])
    wish = {"suite": "cooled", "metric": "m", "at_least": 0.5, "choose": "best", "cooldown_seconds": 1}
    rule = mint.post(rules, json=wish).json()
    assert [warning.partition(":")[0] for warning in rule["warnings"]] == [
        "alias 'prod' is frozen",
        "no revision of this policy has a score of 'm' in suite 'cooled' yet",
    ]
    assert mint.post(f"{rules}/{rule['rule_id']}/pause").json()["paused"] is True
    assert mint.get(rules).json()[0]["paused"] is True
    assert mint.post(f"{rules}/{rule['rule_id']}/resume").json()["paused"] is False
    assert refusal(mint.post(f"{rules}/rule_none/pause")) == (404, "not_found")
    assert refusal(mint.post("/policies/cooled/aliases/none/freeze", json={"frozen": True})) == (
        404,
        "not_found",
    )
    refused = mint.post(rules, json=wish | {"choose": "luckiest"})
    assert refused.status_code == 422
    assert "choose" in refused.text
