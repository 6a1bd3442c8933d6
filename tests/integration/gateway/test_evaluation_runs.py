"""Evaluation runs over the public API: a revision is named as people name it, and its score is on record."""

import time

import pytest

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
    assert run in mint.get("/evaluations/run").json()


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
    ],
)
def test_bad_input_names_its_field(mint, change, field):
    refused = mint.post("/evaluations/run", json={**RUN, **change})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)


def test_another_tenants_run_does_not_exist(stack, mint):
    run = mint.post("/evaluations/run", json=RUN).json()
    with stack.client(key=stack.other_key) as stranger:
        assert stranger.get(f"/evaluations/run/{run['run_id']}").status_code == 404
        assert run["run_id"] not in [theirs["run_id"] for theirs in stranger.get("/evaluations/run").json()]
        assert stranger.post("/evaluations/run", json=RUN).status_code == 404
    ended(mint, run)
