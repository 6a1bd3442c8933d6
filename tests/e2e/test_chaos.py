"""kill -9 of any one part in the middle of a job: the job finishes and no revision is lost or doubled."""

from typing import Any

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS = 6
PARTS = (("registry", "rollout", "loader-tiny", "gateway"), ("nats", "postgres", "trainer-tiny"))
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
    _assert_one_line_of_revisions(stack, policy, job)


def _assert_one_line_of_revisions(stack: RunningStack, policy: str, job: Any) -> None:
    revisions = stack.get(f"/policies/{policy}/revisions")
    trained = [step["revision"]["digest"] for step in job["steps"]]
    distinct = list(dict.fromkeys(trained))
    assert len(trained) == STEPS
    by_number = sorted(revisions, key=lambda revision: revision["number"])
    assert [revision["digest"] for revision in by_number] == distinct
    assert [revision["number"] for revision in by_number] == list(range(1, len(distinct) + 1))


def test_wiped_bus_heals(stack: RunningStack) -> None:
    """All JetStream data is lost while NATS is down: Postgres still knows everything."""
    stack.make_policy("wiped")
    job_id = stack.submit("wiped", steps=STEPS, prompts_per_step=2, group_size=4)
    stack.wait_for_step(job_id, 2)

    stack.wipe_bus()
    job = stack.wait_for_end(job_id)

    assert job["state"] == "succeeded", job["reason"]
    _assert_one_line_of_revisions(stack, "wiped", job)
