"""`mint up --demo`: a new stack shows a recorded run, answers with its revisions, and is filled once."""

from pathlib import Path

import pytest
from e2e.stack import RunningStack, mint, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_new_stack_shows_the_recorded_run_and_an_old_one_refuses_it(server_folder: Path) -> None:
    folder = server_folder / "recorded"
    stack: RunningStack = start_stack(folder, flags=["--demo"])
    try:
        policies = {policy["name"]: policy for policy in stack.get("/policies")}
        assert set(policies) == {"recorded-copy", "tiny-recorded"}
        assert all("recording" in policy["description"] for policy in policies.values())
        prod = stack.get("/policies/recorded-copy/aliases/prod")
        assert (prod["sequence"], prod["revision"]["number"]) == (4, 8)
        body = {"model": "recorded-copy@prod", "prompt": "f abcd=", "max_tokens": 6, "temperature": 0}
        answer = stack.http.post("/v1/completions", json=body, timeout=60)
        assert answer.headers["x-mint-revision"] == prod["revision"]["digest"]
        jobs = {job["job_id"]: job["state"] for job in stack.get("/jobs")}
        assert sorted(jobs.values()) == ["failed", "succeeded", "succeeded"]
        trained = next(job for job in stack.get("/jobs") if job["policy"] == "recorded-copy")
        shown = stack.get(f"/jobs/{trained['job_id']}/rollouts?step=2&token_texts=true")
        segments = [segment for episode in shown["episodes"] for segment in episode["segments"]]
        parts = [part for segment in segments for part in segment]
        sampled = [part for part in parts if "logprobs" in part]
        assert sampled
        assert all(len(part["trainer_logprobs"]) == len(part["logprobs"]) for part in sampled)
    finally:
        stack.stop()
    again = mint("up", "--demo", "--dir", str(folder))
    assert again.returncode == 1
    assert "has data, and --demo fills a new one" in again.stderr
