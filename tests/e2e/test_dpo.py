"""A managed DPO job as a user runs it: pairs from the task's rewards, a policy that answers better after."""

import math
from typing import Any

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

TASK, STEPS, PROMPTS = "mode:copy", 15, 64


def accuracy(stack: RunningStack, model: str) -> float:
    """Return the greedy accuracy on held-out prompts."""
    drawn: Any = stack.post(f"/tasks/{TASK}/prompts", {"split": "heldout", "n": PROMPTS, "seed": 1})
    items = []
    for prompt in drawn["prompts"]:
        body = {"model": model, "prompt": prompt["text"], "max_tokens": 8, "temperature": 0}
        answer = stack.http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        items.append({"entry": prompt["entry"], "text": answer.json()["choices"][0]["text"]})
    rewards: list[float] = stack.post(f"/tasks/{TASK}/score", {"items": items})["rewards"]
    return sum(rewards) / len(rewards)


def test_a_dpo_job_learns_what_the_task_prefers(stack: RunningStack) -> None:
    stack.make_policy("dpo")
    job = stack.wait_for_end(stack.submit("dpo", task=TASK, algorithm="dpo", steps=STEPS, seed=0))

    assert (job["state"], job["reason"]) == ("succeeded", "")
    assert (job["spec"]["algorithm"], job["spec"]["kl_coefficient"]) == ("dpo", 0.1)
    first, *_, last = job["steps"]
    # A fresh policy is its base: it prefers nothing yet. Later pairs are drawn from what it has become.
    assert first["preference_margin"] == pytest.approx(0, abs=1e-4)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert all(step["pairs"] + step["skipped_groups"] == 8 for step in job["steps"] if "pairs" in step)
    assert max(step["ratio_max_error"] for step in job["steps"]) < 1e-3
    assert accuracy(stack, f"dpo@{last['revision']['number']}") >= accuracy(stack, "tiny") + 0.2
