"""A job whose sampling runs ahead of training, on a running stack: in order, and within its bound."""

import time
from itertools import pairwise
from typing import Any

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS, AHEAD = 8, 2
SIZE = {"prompts_per_step": 4, "group_size": 8}


def test_sampling_runs_ahead_of_training_by_at_most_the_bound(stack: RunningStack) -> None:
    stack.make_policy("ahead")
    job = stack.wait_for_end(stack.submit("ahead", steps=STEPS, staleness=AHEAD, **SIZE))
    assert job["state"] == "succeeded", job["reason"]
    steps: list[dict[str, Any]] = job["steps"]
    # A step without a signal leaves the weights, and so the revision, as they were.
    numbers = [step["revision"]["number"] for step in steps]
    assert numbers == sorted(numbers)
    sampled = [None] * (AHEAD + 1) + numbers[: STEPS - AHEAD - 1]
    assert [step["sampled_number"] for step in steps] == sampled
    assert all(step["staleness"] <= min(step["step"] - 1, AHEAD) for step in steps)
    published = [step["published_at"] for step in steps]
    assert published == sorted(published)
    for before, step in zip(steps, steps[AHEAD + 1 :], strict=False):
        assert step["requested_at"] >= before["published_at"]
    for before, step in pairwise(steps):
        assert step["requested_at"] <= before["published_at"]
    # Ratios of stale samples say nothing of how well engine and trainer agree.
    assert any(step["staleness"] for step in steps)
    assert not any("ratio_max_error" in step for step in steps if step["staleness"])
    assert steps[0]["ratio_max_error"] < 1e-3


def test_a_cancelled_job_leaves_none_of_its_waves_running(stack: RunningStack) -> None:
    stack.make_policy("halted")
    job_id = stack.submit("halted", steps=200, staleness=AHEAD, **SIZE)
    stack.wait_for_step(job_id, 2)
    stack.post(f"/jobs/{job_id}/cancel", {})
    job = stack.wait_for_end(job_id)
    assert job["state"] == "cancelled"
    newest = stack.get("/policies/halted")["latest"]["number"]
    time.sleep(3)  # what its open waves could still lead to
    assert stack.get("/policies/halted")["latest"]["number"] == newest
    again = stack.wait_for_end(stack.submit("halted", steps=2, **SIZE))
    assert again["state"] == "succeeded", again["reason"]
    assert again["steps"][0]["sampled_number"] == newest
