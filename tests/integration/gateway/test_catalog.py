"""Bases, policies, revisions, aliases and evaluations through the public API."""

import httpx
import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def mint(stack, counter):
    with stack.client() as client:
        yield client


@pytest.fixture
def stranger(stack, counter):
    with stack.client(key=stack.other_key) as client:
        yield client


def test_bases(mint):
    (base,) = mint.get("/bases").json()
    assert base["name"] == "tiny"
    assert mint.get("/bases/tiny").json() == base
    for path in ("/bases/huge", "/bases/huge/features"):
        missing = mint.get(path)
        assert (missing.status_code, missing.json()["error"]["name"]) == (404, "huge")


def test_features_of_a_base_are_those_of_its_engines(mint):
    features = mint.get("/bases/tiny/features").json()
    assert (features["base"], features["engines"], features["chat"]) == ("tiny", 1, True)
    assert (features["max_context"], features["max_top_logprobs"]) == (512, 20)
    assert features["tool_parser"] is features["reasoning_parser"] is None


def test_a_policy_is_created_with_defaults_and_found_by_name_and_id(mint):
    made = mint.post("/policies", json={"name": "fresh", "base": "tiny", "lora": {"rank": 4}})
    assert made.status_code == 201, made.text
    policy = made.json()
    assert policy["lora"]["alpha"] == 8
    assert policy["latest"] is None
    by_name = mint.get("/policies/fresh").json()
    assert by_name == mint.get(f"/policies/{policy['policy_id']}").json()
    assert by_name == {**policy, "created_at": pytest.approx(policy["created_at"])}
    assert "fresh" in [item["name"] for item in mint.get("/policies").json()]
    again = mint.post("/policies", json={"name": "fresh", "base": "tiny"})
    assert (again.status_code, again.json()["error"]["code"]) == (422, "already_exists")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x1", "base": "tiny", "lora": {"rank": 17}}, "lora.rank"),
        ({"name": "x1", "base": "tiny", "lora": {"rank": 4, "targets": ["lm_head"]}}, "lora.targets"),
        ({"name": "x1", "base": "tiny", "lora": {"rank": 4, "alpha": 0}}, "lora.alpha"),
        ({"name": "x1", "base": "tiny", "lora": {"rank": 4, "dropout": 0.1}}, "lora.dropout"),
        ({"name": "x1", "base": "tiny", "colour": "red"}, "colour"),
        ({"name": "X 1", "base": "tiny"}, "name"),
        ({"name": "tiny", "base": "tiny"}, "name"),
        ({"base": "tiny"}, "name"),
    ],
)
def test_a_bad_policy_is_refused_by_field_and_nothing_is_created(mint, body, field):
    refused = mint.post("/policies", json=body)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)
    assert mint.get("/policies/x1").status_code == 404


@pytest.mark.parametrize("base", ["huge", "", "a/b", "../bases", "ti\0ny"])
def test_an_unknown_base_is_not_found_by_name(mint, base):
    refused = mint.post("/policies", json={"name": "x1", "base": base})
    assert (refused.status_code, refused.json()["error"]["name"]) == (404, base)


def test_revisions_are_listed_with_their_lineage(mint, counter):
    revisions = mint.get("/policies/counter/revisions").json()
    assert [revision["number"] for revision in revisions] == [1, 2, 3]
    assert revisions[2]["parent"] == revisions[1]["digest"]
    assert mint.get("/policies/counter/revisions/2").json() == revisions[1]
    assert mint.get(f"/policies/counter/revisions/{revisions[1]['digest']}").json() == revisions[1]
    assert [r["number"] for r in mint.get("/policies/counter/revisions?after=1&limit=1").json()] == [2]
    assert mint.get("/policies/counter/revisions/9").status_code == 404


def test_promote_compare_and_set_and_roll_back(mint):
    path = "/policies/counter/aliases/canary"
    first = mint.put(path, json={"revision": 1, "expected": "", "reason": "first"}).json()
    assert (first["sequence"], first["history"][0]["previous"]) == (1, None)
    clash = mint.put(path, json={"revision": 2, "expected": ""})
    assert (clash.status_code, clash.json()["error"]["code"]) == (412, "precondition_failed")
    digest = first["revision"]["digest"]
    second = mint.put(path, json={"revision": 3, "expected": digest, "reason": "better"}).json()
    assert second["revision"]["number"] == 3
    back = mint.post(f"{path}/rollback", json={"reason": "regression"}).json()
    assert (back["revision"]["digest"], back["sequence"]) == (digest, 3)
    assert [row["reason"] for row in back["history"]] == ["first", "better", "regression"]
    assert all(row["actor"] for row in back["history"])
    assert mint.get(path).json() == back
    assert "canary" in [alias["alias"] for alias in mint.get("/policies/counter/aliases").json()]


def test_roll_back_needs_no_body(mint):
    path = "/policies/counter/aliases/bare"
    mint.put(path, json={"revision": 1})
    mint.put(path, json={"revision": 2})
    assert mint.post(f"{path}/rollback").json()["revision"]["number"] == 1


def test_an_alias_of_nothing_is_not_found(mint):
    assert mint.put("/policies/counter/aliases/canary", json={"revision": 99}).status_code == 404
    assert mint.get("/policies/counter/aliases/nobody").status_code == 404
    assert mint.put("/policies/counter/aliases/Bad%20Name", json={"revision": 1}).status_code == 422


def test_who_asks_for_no_base_is_told_which_there_are(mint):
    refused = mint.post("/policies", json={"name": "baseless", "base": "none"})
    assert refused.status_code == 404
    assert "tiny" in refused.json()["error"]["near"].split(", ")


def test_evaluations(stack, mint):
    stack.make_policy("evaluated", revisions=2)
    body = {"revision": 2, "suite": "held-out", "metric": "accuracy", "value": 0.75, "n": 64}
    made = mint.post("/policies/evaluated/evaluations", json=body)
    assert made.status_code == 201, made.text
    (listed,) = mint.get("/policies/evaluated/evaluations").json()
    assert listed == made.json()
    assert (listed["value"], listed["number"], listed["n"]) == (0.75, 2, 64)
    refused = mint.post("/policies/evaluated/evaluations", json={**body, "n": 0})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "n")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/policies/counter"),
        ("GET", "/policies/counter/revisions"),
        ("GET", "/policies/counter/revisions/1"),
        ("GET", "/policies/counter/aliases"),
        ("GET", "/policies/counter/evaluations"),
        ("POST", "/policies/counter/aliases/prod/rollback"),
    ],
)
def test_another_tenants_objects_do_not_exist(stranger, method, path):
    assert stranger.request(method, path).status_code == 404


def test_another_tenants_policy_is_hidden_by_id_too(stranger, counter):
    assert stranger.get(f"/policies/{counter.policy_id}").status_code == 404
    assert counter.policy_id not in [policy["policy_id"] for policy in stranger.get("/policies").json()]
    assert stranger.put("/policies/counter/aliases/prod", json={"revision": 1}).status_code == 404


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer nope"}, {"x-api-key": "nope"}])
def test_without_a_good_key_nothing_answers(stack, headers):
    for path in ("bases", "policies", "jobs", "tasks", "events", "engines", "adapters"):
        answer = httpx.get(f"{stack.url}/mint/v1/{path}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_either_header_carries_the_key(stack):
    assert httpx.get(f"{stack.url}/mint/v1/bases", headers={"x-api-key": stack.key}).status_code == 200


def test_a_name_cannot_step_out_of_its_place(mint):
    for name in ("..", "%2e%2e", "..%2f..%2fbases", "counter%2frevisions"):
        assert mint.get(f"/policies/{name}/revisions").status_code == 404
