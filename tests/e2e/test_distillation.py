"""A managed job with a teacher as a user runs it: the policy moves to another one's revision."""

from statistics import fmean

import pytest
from e2e.stack import RunningStack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TASK, STEPS = "mode:copy", 16


def test_a_policy_moves_to_its_teacher(stack: RunningStack) -> None:
    stack.make_policy("taught-copy")
    made = stack.wait_for_end(stack.submit("taught-copy", task=TASK, algorithm="sft", steps=STEPS, seed=0))
    assert made["state"] == "succeeded", made["reason"]
    teacher = f"taught-copy@{made['steps'][-1]['revision']['number']}"
    stack.make_policy("learner")
    body = {"policy": "learner", "task": TASK, "algorithm": "opd"}
    for named in ({}, {"teacher": "taught-copy@99"}, {"teacher": "no-such-policy"}, {"teacher": ""}):
        refused = stack.post("/jobs", body | named, status=422)
        assert refused["error"]["field"] == "teacher"
    check_another_tenants_job_is_refused(stack, teacher)
    job = stack.wait_for_end(
        stack.submit(
            "learner",
            task=TASK,
            algorithm="opd",
            teacher=teacher,
            steps=STEPS,
            group_size=8,
            learning_rate=2e-3,
            seed=0,
        )
    )
    assert (job["state"], job["reason"]) == ("succeeded", "")
    taught = job["spec"]["teacher"]
    assert (taught["name"], taught["revision"]["digest"]) == (
        teacher,
        made["steps"][-1]["revision"]["digest"],
    )
    away = [step["teacher_kl"] for step in job["steps"]]
    assert all(step["skipped_groups"] == 0 for step in job["steps"]), "equal rewards are trained on too"
    assert max(step["ratio_max_error"] for step in job["steps"]) < 1e-3
    # Measured: 1.9 at the beginning.
    assert fmean(away[-4:]) < 0.5 * fmean(away[:2])


def check_another_tenants_job_is_refused(stack: RunningStack, teacher: str) -> None:
    """Check that the error for a teacher of another tenant equals the error for an unknown name."""
    tenant = stack.post("/tenants", {"name": "beside"}, status=201)["tenant_id"]
    key = stack.post(f"/tenants/{tenant}/keys", {"name": "admin"}, status=201)["key"]
    theirs = {"authorization": f"Bearer {key}"}
    lora = {"rank": 8, "alpha": 16, "seed": 0}
    stack.post("/policies", {"name": "theirs", "base": "tiny", "lora": lora}, status=201, **theirs)
    messages = [
        stack.post(
            "/jobs",
            {"policy": "theirs", "task": TASK, "algorithm": "opd", "teacher": name},
            status=422,
            **theirs,
        )["error"]["message"].replace(name.partition("@")[0], "NAME")
        for name in (teacher, "no-such-policy@1")
    ]
    assert messages[0] == messages[1]
