"""How far samples lag behind the weights that they train, as a job's user sees it."""

from dataclasses import replace

import pytest

from services.rollout.core.job import JobState, open_job
from services.rollout.core.job_view import JobProgress, job_view
from services.rollout.core.progress import Progress
from services.rollout.core.staleness import by_staleness, phase_seconds, staleness_of
from services.rollout.core.wave import Wave, WaveCounts, WaveState
from tests.unit.rollout.world import history, published, submitted


def wave(step: int, sampled: int, **metrics: float) -> Wave:
    """Return a trained wave that the revision of an earlier step sampled; 0: one of before the job."""
    (made,) = history([0.5])
    revision = published(step).revision
    return replace(
        made,
        step=step,
        state=WaveState.PUBLISHED,
        sampled=published(sampled).revision.digest if sampled else None,
        revision=revision,
        requested_at=100.0,
        completed_at=107.0,
        published_at=112.0,
        metrics={"seconds": 2.0, **metrics},
        counts=WaveCounts(trained_tokens=100 * step),
    )


AHEAD = [
    wave(1, 0, sampler_kl=0.001, effective_sample_share=1.0),
    wave(2, 0, lag_kl=0.25, effective_sample_share=0.5, masked_share=0.125),
    wave(3, 1, lag_kl=0.75, effective_sample_share=1.0),
    wave(4, 3, sampler_kl=float("nan")),
]


def test_a_revision_is_as_stale_as_the_steps_that_were_trained_since() -> None:
    assert staleness_of(AHEAD) == {1: 0, 2: 1, 3: 1, 4: 0}
    # A step without a signal publishes what it began with: its samples are no staler for it.
    idle = replace(AHEAD[1], revision=AHEAD[0].revision)
    assert staleness_of([AHEAD[0], idle, AHEAD[2]]) == {1: 0, 2: 1, 3: 0}
    assert staleness_of([]) == {}


def test_the_cost_of_staleness_is_a_mean_by_tokens_of_the_steps_that_have_it() -> None:
    fresh, stale = by_staleness(AHEAD)
    assert (fresh.staleness, fresh.steps, fresh.tokens) == (0, 2, 500)
    assert (fresh.kl, fresh.effective_sample_share, fresh.masked_share) == (0.001, 1.0, None)
    assert (stale.staleness, stale.steps, stale.tokens) == (1, 2, 500)
    assert stale.kl == pytest.approx((200 * 0.25 + 300 * 0.75) / 500)
    assert stale.effective_sample_share == pytest.approx(0.8)
    assert stale.masked_share == 0.125
    assert by_staleness([replace(AHEAD[0], revision=None)]) == []


def test_the_phases_of_a_step_add_up_to_its_time() -> None:
    assert phase_seconds(AHEAD[0]) == {"sampling": 7.0, "waiting": 3.0, "training": 2.0}
    assert phase_seconds(replace(AHEAD[0], published_at=None)) == {"sampling": 7.0}
    assert phase_seconds(replace(AHEAD[0], completed_at=None, published_at=None)) == {}
    slow = replace(AHEAD[0], metrics={"seconds": 60.0})
    assert phase_seconds(slow) == {"sampling": 7.0, "waiting": 0.0, "training": 5.0}


def test_a_job_shows_its_samples_by_staleness() -> None:
    job = replace(open_job(submitted(), now=1.0), state=JobState.RUNNING)
    shown = job_view(JobProgress(job=job, progress=Progress(), waves=AHEAD))
    assert [(step["staleness"], step["staleness_tokens"]) for step in shown["steps"]] == [
        (0, {"0": 100}),
        (1, {"1": 200}),
        (1, {"1": 300}),
        (0, {"0": 400}),
    ]
    assert [row["staleness"] for row in shown["by_staleness"]] == [0, 1]
    assert shown["steps"][0]["phase_seconds"]["waiting"] == 3.0
    spec = replace(job.spec, algorithm="sft", group_size=1)
    read = job_view(JobProgress(job=replace(job, spec=spec), progress=Progress(), waves=AHEAD))
    assert (read["by_staleness"], "staleness_tokens" in read["steps"][0]) == ([], False)
