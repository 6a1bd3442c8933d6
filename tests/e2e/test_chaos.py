"""kill -9 of any one part in the middle of a job: the job finishes and no revision is lost or doubled."""

import json
import random
import time
from typing import Any

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS = 6
PARTS = (
    pytest.param(("registry", "rollout", "loader-tiny", "gateway"), marks=pytest.mark.slow),
    ("nats", "postgres", "trainer-tiny"),
)
"""Killed in turn in one job, each after a further step."""


@pytest.mark.parametrize("parts", PARTS, ids="+".join)
def test_job_survives_kill_9(stack: RunningStack, parts: tuple[str, ...]) -> None:
    policy = f"kill-{parts[0]}"
    stack.make_policy(policy)
    restarts = {part: stack.parts()[part]["restarts"] for part in parts}
    job_id = stack.submit(policy, steps=STEPS, prompts_per_step=2, group_size=4)

    for done, part in enumerate(parts, start=1):
        assert stack.wait_for_step(job_id, done)["state"] == "running"
        stack.kill(part)
    job = stack.wait_for_end(job_id)
    stack.wait_until_ready()

    assert job["state"] == "succeeded", job["reason"]
    found = {part: stack.parts()[part]["restarts"] - before for part, before in restarts.items()}
    assert found == dict.fromkeys(parts, 1)
    _assert_one_line_of_revisions(stack, policy, job, steps=STEPS)


@pytest.mark.slow
def test_a_job_whose_sampling_runs_ahead_survives_kills_at_random_points(stack: RunningStack) -> None:
    """20 kills of six parts: each step is trained once, in order, within the bound of staleness."""
    steps, staleness, chance = 60, 2, random.Random(31)
    parts = ["registry", "rollout", "loader-tiny", "trainer-tiny", "nats", "postgres"]
    stack.make_policy("kill-ahead")
    size = {"prompts_per_step": 4, "group_size": 8, "max_new_tokens": 64}
    job_id = stack.submit("kill-ahead", steps=steps, staleness=staleness, **size)
    for kill in range(20):
        job = stack.wait_for_step(job_id, kill)
        assert job["finished_at"] is None, job["reason"]
        time.sleep(chance.uniform(0, 1))
        stack.kill(chance.choice(parts))
        stack.wait_until_ready()
    job = stack.wait_for_end(job_id, seconds=600)
    stack.wait_until_ready()
    assert job["state"] == "succeeded", job["reason"]
    assert all(step["staleness"] <= staleness for step in job["steps"])
    _assert_one_line_of_revisions(stack, "kill-ahead", job, steps=steps)


def _assert_one_line_of_revisions(stack: RunningStack, policy: str, job: Any, *, steps: int) -> None:
    revisions = stack.get(f"/policies/{policy}/revisions")
    trained = [step["revision"]["digest"] for step in job["steps"]]
    distinct = list(dict.fromkeys(trained))
    assert len(trained) == steps
    by_number = sorted(revisions, key=lambda revision: revision["number"])
    assert [revision["digest"] for revision in by_number] == distinct
    assert [revision["number"] for revision in by_number] == list(range(1, len(distinct) + 1))


@pytest.fixture(scope="module")
def undisturbed(stack: RunningStack) -> Any:
    """Return a job on a file that nothing was killed under."""
    return stack.wait_for_end(submit_file(stack, "whole"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", [("rollout", "trainer-tiny"), ("rollout", "nats", "postgres")], ids="+".join
)
def test_a_job_on_a_file_takes_the_same_steps_whatever_is_killed(
    stack: RunningStack, undisturbed: Any, parts: tuple[str, ...]
) -> None:
    job_id = submit_file(stack, f"killed-{len(parts)}")
    for done, part in enumerate(parts, start=1):
        assert stack.wait_for_step(job_id, done)["state"] == "running"
        stack.kill(part)
    job = stack.wait_for_end(job_id)
    stack.wait_until_ready()
    assert (undisturbed["state"], job["state"], job["reason"]) == ("succeeded", "succeeded", "")
    assert len(job["steps"]) == 8
    assert learnt(job) == learnt(undisturbed)


def submit_file(stack: RunningStack, suffix: str) -> str:
    """Submit a job on a file of words to copy; each has the same seed, rows and shape."""
    rows = [{"prompt": f"f {a}{b}=", "completion": f"{a}{b}"} for a in "abcdefgh" for b in "ijklm"]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    answer = stack.http.post(
        "/v1/files", files={"file": ("words.jsonl", data)}, data={"purpose": "fine-tune"}
    )
    assert answer.status_code == 200, answer.text
    body = {
        "model": "tiny",
        "training_file": answer.json()["id"],
        "suffix": suffix,
        "seed": 18,
        "hyperparameters": {"n_epochs": 1, "batch_size": 4},
        "mint": {"evaluation": {"holdout": 0.2, "every": 2}},
    }
    answer = stack.http.post("/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def learnt(job: Any) -> Any:
    """Return the bytes of each step's revision, and what they were measured by."""
    steps = [
        (step["revision"]["digest"], step["loss"], step.get("valid_loss"), step["dropped_rows"])
        for step in job["steps"]
    ]
    return steps, job["result"]["digest"], job["trained_tokens"]


def test_wiped_bus_heals(stack: RunningStack) -> None:
    """All JetStream data is lost while NATS is down: Postgres still knows everything."""
    stack.make_policy("wiped")
    job_id = stack.submit("wiped", steps=STEPS, prompts_per_step=2, group_size=4)
    stack.wait_for_step(job_id, 2)

    stack.wipe_bus()
    job = stack.wait_for_end(job_id)

    assert job["state"] == "succeeded", job["reason"]
    _assert_one_line_of_revisions(stack, "wiped", job, steps=STEPS)
