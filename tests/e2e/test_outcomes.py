"""A job that trained nothing says so, one that learnt names its best revision, and revisions are scored."""

import time
from typing import Any

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE_SECONDS = 120.0
SMALL = {"steps": 3, "prompts_per_step": 2, "group_size": 2}


def test_a_job_without_a_signal_fails_with_the_reason(stack: RunningStack) -> None:
    stack.make_policy("puzzled")
    job = stack.wait_for_end(stack.submit("puzzled", task="progression", max_new_tokens=4, **SMALL))
    assert job["state"] == "failed"
    assert job["reason"].startswith("nothing was trained: 3 of 3 steps had no signal")
    assert (job["step"], job["total_steps"], job["reward"]) == (3, 3, 0.0)


def test_a_job_that_learns_names_its_best_revision(stack: RunningStack) -> None:
    stack.make_policy("learning")
    job = stack.wait_for_end(stack.submit("learning", steps=4, prompts_per_step=4, group_size=8))
    assert job["state"] == "succeeded"
    measured = {step["sampled_number"]: step["reward_mean"] for step in job["steps"][1:]}
    assert measured[job["best"]["number"]] == job["best"]["reward"] == max(measured.values())
    assert stack.get("/policies/learning/revisions/best")["number"] == job["best"]["number"]


def test_a_revision_is_scored_on_prompts_that_training_never_drew(stack: RunningStack) -> None:
    stack.make_policy("scored")
    stack.wait_for_end(stack.submit("scored", steps=2, prompts_per_step=4, group_size=8))
    body = {"policy": "scored", "revision": "latest", "task": "mode:copy", "n": 32}
    greedy, again, sampled = (
        _ended_run(stack, {**body, **change}) for change in ({}, {}, {"temperature": 1.0, "seed": 1})
    )
    assert {run["state"] for run in (greedy, again, sampled)} == {"succeeded"}
    assert (greedy["value"], greedy["stderr"]) == (again["value"], again["stderr"])
    first, second = stack.get("/policies/scored/evaluations")
    assert (first["value"], second["value"]) == (greedy["value"], sampled["value"])
    assert 0 < sampled["value"] < 1


def _ended_run(stack: RunningStack, body: dict[str, object]) -> Any:
    run = stack.post("/evaluations/run", body, status=202)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := stack.get(f"/evaluations/run/{run['run_id']}"))["state"] == "running":
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    return now
