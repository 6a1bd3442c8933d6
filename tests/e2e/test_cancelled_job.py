"""A job that follows one cancelled in mid-step agrees with its sampler from the first step on."""

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SMALL = {"prompts_per_step": 4, "group_size": 8, "algorithm": "grpo"}


def test_the_next_job_trains_from_what_it_samples_at(stack: RunningStack) -> None:
    stack.make_policy("restless")
    ratios = []
    for seed in range(4):
        job_id = stack.submit("restless", steps=50, seed=seed, **SMALL)
        job = stack.wait_for_step(job_id, 2)
        ratios += [step["ratio_max_error"] for step in job["steps"] if "ratio_max_error" in step]
        stack.post(f"/jobs/{job_id}/cancel", {})
    job = stack.wait_for_end(stack.submit("restless", steps=2, seed=9, **SMALL))
    assert (job["state"], job["reason"]) == ("succeeded", "")
    ratios += [step["ratio_max_error"] for step in job["steps"]]
    assert len(ratios) >= 10
    assert max(ratios) < 1e-3, ratios
