"""Evaluation runs over the public API: a revision is named as people name it, and its score is on record."""

import json
import time

import httpx
import pytest

from tests.testing.factories import EXACT

pytestmark = pytest.mark.integration

PATIENCE_SECONDS = 90.0
RUN = {"policy": "examinee", "task": "mode:copy", "n": 6}


@pytest.fixture(scope="module")
def examinee(stack):
    stack.make_policy("examinee", revisions=2)
    stack.move_alias("examinee", "prod", 1)


@pytest.fixture
def mint(stack, examinee):
    with stack.client() as client:
        yield client


def ended(mint, run):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := mint.get(f"/evaluations/run/{run['run_id']}").json())["state"] == "running":
        assert time.monotonic() < deadline, now
        time.sleep(0.05)
    return now


def test_a_run_ends_with_a_score_that_is_recorded(mint):
    begun = mint.post("/evaluations/run", json=RUN)
    assert begun.status_code == 202, begun.text
    assert begun.json()["max_new_tokens"] == mint.get("/tasks/mode:copy").json()["defaults"]["max_new_tokens"]
    run = ended(mint, begun.json())
    assert (run["state"], run["scored"], run["policy"], run["revision"]["number"]) == (
        "succeeded",
        6,
        "examinee",
        2,
    )
    (score,) = mint.get("/policies/examinee/evaluations").json()
    assert (score["suite"], score["metric"], score["n"], score["number"]) == ("mode:copy", "reward", 6, 2)
    assert (score["value"], score["stderr"]) == (run["value"], run["stderr"])
    listed = {name: value for name, value in run.items() if name != "grader"}
    assert listed in mint.get("/evaluations/run").json()
    rows = mint.get(f"/evaluations/run/{run['run_id']}/rows", params={"after": 4}).json()
    assert [row["row"] for row in rows] == [5, 6]
    assert all(row["score"] in (0.0, 1.0) and isinstance(row["answer"], str) for row in rows)


def test_a_model_is_a_base_or_a_revision_and_a_base_s_score_is_not_recorded(mint):
    asked = {"task": "mode:copy", "n": 1}
    base = ended(mint, mint.post("/evaluations/run", json={**asked, "model": "tiny"}).json())
    assert (base["state"], base["base"], base["policy"], base["revision"]) == ("succeeded", "tiny", "", None)
    for name, number in (("examinee@2", 2), ("examinee@prod", 1), ("examinee", 1)):
        run = mint.post("/evaluations/run", json={**asked, "model": name, "suite": "mine"}).json()
        assert (run["revision"]["number"], run["suite"]) == (number, "mine")
        ended(mint, run)
    scores = [
        score for score in mint.get("/policies/examinee/evaluations").json() if score["suite"] == "mine"
    ]
    assert {score["number"] for score in scores} == {1, 2}


def test_two_models_are_asked_the_same_and_compared(mint, stack):
    asked = {"model": "examinee@2", "baseline": "tiny", "task": "mode:copy", "n": 8, "seed": 5}
    headers = {"idempotency-key": "compare-once"}
    begun, again = (mint.post("/evaluations/compare", json=asked, headers=headers) for _ in range(2))
    assert (begun.status_code, begun.json()) == (202, again.json())
    runs = {side: begun.json()[side]["run_id"] for side in ("run", "baseline")}
    for side in runs:
        ended(mint, begun.json()[side])
    found = mint.get("/evaluations/compare", params={**runs, "rows": 3}).json()
    compared = found["comparison"]
    assert (compared["n"], compared["wins"] + compared["losses"] + compared["ties"]) == (8, 8)
    assert compared["difference"] == pytest.approx(found["run"]["value"] - found["baseline"]["value"])
    assert compared["interval"]["low"] <= compared["difference"] <= compared["interval"]["high"]
    assert len(compared["rows"]) == 3
    assert {"row", "score", "baseline_score", "difference", "weight", "answer", "baseline_answer"} == set(
        compared["rows"][0]
    )
    assert mint.get("/evaluations/compare", params={**runs, "rows": 3}).json() == found
    with stack.client(key=stack.other_key) as stranger:
        for sides in (runs, {**runs, "run": "evr_none"}):
            assert stranger.get("/evaluations/compare", params=sides).status_code == 404
        assert stranger.post("/evaluations/compare", json=asked).status_code == 404
        assert stranger.get(f"/evaluations/run/{runs['run']}/rows").status_code == 404


def test_runs_that_were_asked_otherwise_are_not_compared(mint):
    first = mint.post("/evaluations/run", json=RUN).json()
    other = mint.post("/evaluations/run", json={**RUN, "seed": 1}).json()
    sides = {"run": first["run_id"], "baseline": other["run_id"]}
    refused = mint.get("/evaluations/compare", params=sides)
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "baseline")
    for run in (first, other):
        ended(mint, run)


def test_a_revision_is_named_by_number_digest_or_alias(mint):
    digest = mint.get("/policies/examinee/revisions/2").json()["digest"]
    for name, number in ((1, 1), ("1", 1), (digest, 2), ("prod", 1), ("latest", 2)):
        run = mint.post("/evaluations/run", json={**RUN, "revision": name, "n": 1}).json()
        assert run["revision"]["number"] == number
        assert ended(mint, run)["stderr"] is None


def test_the_same_key_is_the_same_run(mint):
    headers = {"idempotency-key": "eval-once"}
    first, again = (mint.post("/evaluations/run", json=RUN, headers=headers).json() for _ in range(2))
    assert first["run_id"] == again["run_id"]
    ended(mint, first)


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        ({"policy": "nobody"}, "policy", "nobody"),
        ({"task": "mode:cpy"}, "task", "mode:cpy"),
        ({"revision": 9}, "revision", "9"),
        ({"revision": "prd"}, "revision", "prd"),
    ],
)
def test_unknown_names_are_not_found(mint, change, kind, name):
    refused = mint.post("/evaluations/run", json={**RUN, **change})
    error = refused.json()["error"]
    assert (refused.status_code, error["kind"], error["name"]) == (404, kind, name)


def test_near_names_are_in_the_message(mint):
    for change, near in (({"revision": "prd"}, "prod"), ({"task": "mode:cpy"}, "mode:copy")):
        refused = mint.post("/evaluations/run", json={**RUN, **change})
        assert near in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 0}, "n"),
        ({"n": 4097}, "n"),
        ({"seed": -1}, "seed"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 100_000}, "max_new_tokens"),
        ({"size": 3}, "size"),
        ({"policy": None}, "policy"),
        ({"model": "tiny"}, "policy"),
        ({"policy": None, "model": "examinee", "revision": 1}, "revision"),
        ({"task": None}, "task"),
        ({"file": "file-x", "grader": EXACT}, "task"),
        ({"grader": EXACT}, "grader"),
        ({"task": None, "file": "file-x", "max_new_tokens": 5}, "max_new_tokens"),
        ({"suite": ""}, "suite"),
        ({"on_long": "cut"}, "on_long"),
    ],
)
def test_bad_input_names_its_field(mint, change, field):
    refused = mint.post("/evaluations/run", json={**RUN, **change})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)


def test_a_file_is_its_tenant_s_and_fits_what_is_asked(mint, stack):
    def uploaded(*rows):
        sent = {
            "files": {"file": ("a.jsonl", "\n".join(map(json.dumps, rows)))},
            "data": {"purpose": "fine-tune"},
        }
        return httpx.post(f"{stack.url}/v1/files", headers=mint.headers, **sent).json()["id"]

    prompt = {"messages": [{"role": "user", "content": "f ab="}], "answer": "ab"}
    file, plain = uploaded(prompt, prompt), uploaded({"prompt": "f ab=", "completion": "ab"})
    asked = {"model": "tiny", "file": file, "grader": EXACT}
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.post("/evaluations/run", json=asked).status_code == 404
        comparison = {"model": "tiny", "baseline": "tiny", "file": file, "grader": EXACT}
        assert stranger.post("/evaluations/compare", json=comparison).status_code == 404
    for change, field in (
        ({"n": 3}, "n"),
        ({"file": plain}, "file"),
        ({"grader": None}, "grader"),
        ({"grader": {**EXACT, "operation": "is"}}, "grader.operation"),
        ({"grader": {**EXACT, "reference": "\x00"}}, "grader"),
    ):
        refused = mint.post("/evaluations/run", json={**asked, **change})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)
    for each in (file, plain):
        httpx.delete(f"{stack.url}/v1/files/{each}", headers=mint.headers)


def test_another_tenants_run_does_not_exist(stack, mint):
    run = mint.post("/evaluations/run", json=RUN).json()
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.get(f"/evaluations/run/{run['run_id']}").status_code == 404
        assert run["run_id"] not in [theirs["run_id"] for theirs in stranger.get("/evaluations/run").json()]
        assert stranger.post("/evaluations/run", json=RUN).status_code == 404
    ended(mint, run)
