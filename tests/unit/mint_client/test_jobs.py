"""What is told of a job while it runs."""

from typing import Any

from mint_client.core.jobs import (
    duration,
    headline,
    job_row,
    phase_line,
    read_job,
    seconds_left,
    staleness_rows,
    step_row,
    tiers_of,
    waiting_notes,
)

DIGEST = "sha256:" + "a" * 64


def published(step: int, reward: float) -> dict[str, Any]:
    """Return a step that has ended."""
    revision = {"number": step, "digest": DIGEST}
    times = {"requested_at": 1000.0 + 10 * step, "completed_at": 1005.0 + 10 * step}
    sampled = {"sampled_number": step - 1 or None, "reward_mean": reward}
    return {"step": step, "state": "published", **sampled, "revision": revision, **times}


JOB = {
    "job_id": "job_a",
    "policy_id": "pol_a",
    "policy": "counter",
    "base": "tiny",
    "state": "running",
    "reason": "",
    "spec": {"task": "mode:copy", "steps": 6},
    "warnings": [],
    "step": 2,
    "total_steps": 6,
    "reward": 0.25,
    "best": {"number": 1, "digest": DIGEST, "reward": 0.25, "step": 2},
    "created_at": 1000.0,
    "started_at": 1010.0,
    "finished_at": None,
    "steps": [published(1, 0.1), published(2, 0.25), {"step": 3, "state": "requested"}],
}


def test_headline_says_how_far_a_job_is_and_how_long_it_will_take() -> None:
    job = read_job(JOB)
    assert seconds_left(job, now=1030.0) == 40.0
    told = "counter on mode:copy: running, step 2/6, 20 s, about 40 s left, best revision 1 (0.250)"
    assert headline(job, now=1030.0) == told


def test_nobody_knows_the_end_of_a_job_that_has_not_begun_or_has_ended() -> None:
    assert seconds_left(read_job({**JOB, "started_at": None, "step": 0}), now=1030.0) is None
    assert seconds_left(read_job({**JOB, "state": "failed"}), now=1030.0) is None
    ended = read_job({**JOB, "state": "succeeded", "finished_at": 1110.0, "best": None})
    assert headline(ended, now=9999.0) == "counter on mode:copy: succeeded, step 2/6, 1 min 40 s"


def test_a_listed_job_says_its_step_and_its_time() -> None:
    row = job_row(JOB, now=1030.0)
    assert (row["policy"], row["step"], row["took"]) == ("counter", "2/6", "20 s")
    assert job_row({**JOB, "started_at": None}, now=1030.0)["took"] is None


def test_the_age_of_samples_is_shown_where_some_are_stale_and_the_phases_of_ended_steps() -> None:
    fresh = {"staleness": 0, "steps": 3, "tokens": 64, "kl": 1e-4, "effective_sample_share": 1.0}
    stale = {**fresh, "staleness": 2, "masked_share": 0.25}
    assert staleness_rows(read_job({**JOB, "by_staleness": [fresh]})) == []
    shown = staleness_rows(read_job({**JOB, "by_staleness": [fresh, stale]}))
    assert [(row["staleness"], row["masked_share"]) for row in shown] == [(0, None), (2, 0.25)]
    assert phase_line(read_job(JOB)) == ""
    phases = [{"sampling": 1.0, "waiting": 0.5, "training": 2.0}, {"sampling": 3.0}]
    steps = [{**published(n, 0.1), "phase_seconds": each} for n, each in enumerate(phases, start=1)]
    told = "a step took 1.0 s sampling, 0.5 s waiting, 2.0 s training"
    assert phase_line(read_job({**JOB, "steps": steps})) == told


def test_a_step_shows_where_its_revision_is() -> None:
    done, waiting = read_job(JOB).steps[1:]
    assert step_row(done, {DIGEST: "slot"})["tier"] == "slot"
    assert step_row(done, {})["tier"] == "stored"
    assert step_row(waiting, {})["tier"] == "requested"
    assert tiers_of([{"digest": DIGEST, "tier": "host"}]) == {DIGEST: "host"}


def test_a_step_shows_whose_answers_had_its_reward() -> None:
    first, second, waiting = read_job(JOB).steps
    assert [step_row(step, {})["sampled"] for step in (first, second, waiting)] == ["base", 1, None]


def test_durations_read_in_two_units() -> None:
    assert [duration(each) for each in (5, 65, 7300)] == ["5 s", "1 min 5 s", "2 h 1 min"]


def test_a_job_whose_base_is_not_started_waits_and_says_for_what() -> None:
    reason = (
        "base tiny is not started: this stack trains smollm2; `mint up --base smollm2 --base tiny` starts it"
    )
    waiting = {**JOB, "waits_for": reason}
    assert headline(read_job(waiting), now=1030.0).startswith("counter on mode:copy: waiting, step 2/6")
    assert job_row(waiting, now=1030.0)["state"] == "waiting"
    assert waiting_notes([JOB, waiting, {**waiting, "job_id": "job_b"}]) == [f"job_a, job_b: {reason}"]
