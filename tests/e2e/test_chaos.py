"""kill -9 of any one part in the middle of a job: the job finishes and no revision is lost or doubled."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import RunningStack, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

STEPS = 6
PARTS = ("registry", "rollout", "loader-tiny", "gateway", "nats", "postgres", "trainer-tiny")


@pytest.fixture(scope="module")
def fragile(stack_folder: Path) -> Iterator[RunningStack]:
    running = start_stack(stack_folder / "fragile")
    yield running
    running.stop()


@pytest.mark.parametrize("part", PARTS)
def test_job_survives_kill_9(fragile: RunningStack, part: str) -> None:
    policy = f"kill-{part}"
    fragile.make_policy(policy)
    restarts = fragile.parts()[part]["restarts"]
    job_id = fragile.submit(policy, steps=STEPS, prompts_per_step=2, group_size=4)
    fragile.wait_for_step(job_id, 2)

    fragile.kill(part)
    job = fragile.wait_for_end(job_id)
    fragile.wait_until_ready()

    assert job["state"] == "succeeded", job["reason"]
    assert fragile.parts()[part]["restarts"] == restarts + 1
    _assert_one_line_of_revisions(fragile, policy, job)


def _assert_one_line_of_revisions(stack: RunningStack, policy: str, job: Any) -> None:
    revisions = stack.get(f"/policies/{policy}/revisions")
    trained = [step["revision"]["digest"] for step in job["steps"]]
    distinct = list(dict.fromkeys(trained))
    assert len(trained) == STEPS
    by_number = sorted(revisions, key=lambda revision: revision["number"])
    assert [revision["digest"] for revision in by_number] == distinct
    assert [revision["number"] for revision in by_number] == list(range(1, len(distinct) + 1))


def test_wiped_bus_heals(fragile: RunningStack) -> None:
    """All JetStream data is lost while NATS is down: Postgres still knows everything."""
    fragile.make_policy("wiped")
    job_id = fragile.submit("wiped", steps=STEPS, prompts_per_step=2, group_size=4)
    fragile.wait_for_step(job_id, 2)

    fragile.wipe_bus()
    job = fragile.wait_for_end(job_id)

    assert job["state"] == "succeeded", job["reason"]
    _assert_one_line_of_revisions(fragile, "wiped", job)
