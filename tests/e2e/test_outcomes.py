"""A job that trained nothing says so, and one that learnt names its best revision."""

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

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
