"""Policies through the public API: described, changed, selected, tagged."""

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def described(stack):
    body = {"base": "tiny", "lora": {"rank": 2}}
    with stack.client() as mint:
        for name, labels in (("lab-a", {"team": "lab", "stage": "prod"}), ("lab-b", {"team": "lab"})):
            answer = mint.post("/policies", json={**body, "name": name, "labels": labels})
            assert answer.status_code in {201, 422}, answer.text
        yield mint


def names(mint, **params) -> list[str]:
    return [policy["name"] for policy in mint.get("/policies", params=params).raise_for_status().json()]


def test_policies_are_selected(described):
    assert names(described, labels="team=lab") == ["lab-a", "lab-b"]
    assert names(described, labels="team=lab,stage=prod") == ["lab-a"]
    assert names(described, labels="team=lab", after="lab-a") == ["lab-b"]
    assert names(described, labels="team=lab", base="other") == []
    made = described.get("/policies/lab-b").json()["created_at"]
    assert "lab-a" not in names(described, created_after=made)
    assert names(described, created_after=made, labels="team=lab") == ["lab-b"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"labels": "team"}, "labels"),
        ({"labels": "team=a=b"}, "labels"),
        ({"created_after": "nan"}, "created_after"),
        ({"created_after": 0, "after": "nobody"}, "after"),
    ],
)
def test_unreadable_selection_names_its_field(described, params, field):
    answer = described.get("/policies", params=params)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_patch_merges_and_tags_guard_it(described):
    first = described.get("/policies/lab-a")
    tag = first.headers["etag"]
    known = described.get("/policies/lab-a", headers={"if-none-match": f'"other", {tag}'})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)

    patch = {
        "description": "In use.",
        "labels": {"stage": None, "shift": "night"},
        "retention": {"keep_last": 2},
    }
    changed = described.patch("/policies/lab-a", json=patch, headers={"if-match": tag})
    assert changed.status_code == 200, changed.text
    answer = changed.json()
    assert answer["labels"] == {"shift": "night", "team": "lab"}
    assert (answer["description"], answer["retention"]) == ("In use.", {"keep_last": 2, "keep_days": None})
    longer = described.patch("/policies/lab-a", json={"retention": {"keep_days": 9}}).json()
    assert longer["retention"] == {"keep_last": 2, "keep_days": 9}, "what is not named of it stays"
    changed = described.patch("/policies/lab-a", json={"retention": {"keep_days": None}})
    assert changed.json()["retention"] == {"keep_last": 2, "keep_days": None}
    assert changed.headers["etag"] == described.get("/policies/lab-a").headers["etag"] != tag

    late = described.patch("/policies/lab-a", json={"description": "x"}, headers={"if-match": tag})
    assert (late.status_code, late.json()["error"]["code"]) == (412, "precondition_failed")
    cleared = described.patch("/policies/lab-a", json={"description": None, "retention": None}).json()
    assert (cleared["description"], cleared["retention"]["keep_last"]) == ("", None)
    described.patch("/policies/lab-a", json={"labels": {"stage": "prod", "shift": None}}).raise_for_status()


@pytest.mark.parametrize(
    ("patch", "field"),
    [
        ({"name": "new"}, "name"),
        ({"labels": {"A": "b"}}, "labels"),
        ({"retention": {"keep_last": 0}}, "retention.keep_last"),
        ({"retention": {"keep": 1}}, "retention.keep"),
    ],
)
def test_what_may_not_be_changed_is_named(described, patch, field):
    answer = described.patch("/policies/lab-a", json=patch)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_others_may_not_change_it(stack, described):
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.patch("/policies/lab-a", json={"description": "mine"}).status_code == 404


def test_everything_that_has_a_name_has_a_tag(stack, described, counter):
    described.put("/policies/counter/aliases/tagged", json={"revision": 1}).raise_for_status()
    for path in ("/bases/tiny", "/policies/counter/revisions/1", "/policies/counter/aliases/tagged"):
        tag = described.get(path).headers["etag"]
        assert described.get(path, headers={"if-none-match": tag}).status_code == 304


def test_revisions_are_selected_by_state(described, counter):
    found = described.get("/policies/counter/revisions", params={"state": "published"}).json()
    assert {revision["state"] for revision in found} == {"published"}
    assert described.get("/policies/counter/revisions", params={"created_before": 1}).json() == []
    assert described.get("/policies/counter/revisions", params={"state": "gone"}).status_code == 422
