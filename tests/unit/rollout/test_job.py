"""The chain of a job, under duplicates, late facts and every order."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.errors import Unavailable
from mint_common.events import JobFinished, RevisionPublished, WaveCancelled, WaveCompleted, WaveRequested
from mint_common.ids import JobId
from services.rollout.core.job import Fact, Job, JobState, open_job, wave_id_of
from services.rollout.core.job_control import pause, resume, resumed_steps, stop
from services.rollout.core.job_steps import advance, begin, next_steps
from tests.testing.factories import BASE, JOB, POLICY, TENANT, make_claim
from tests.unit.rollout.world import published, rejected, revision_of, submitted, training_failed

STEPS = 3


def completed(step: int, *, job_id: JobId = JOB) -> WaveCompleted:
    event = submitted(job_id=job_id)
    return WaveCompleted(
        tenant_id=TENANT,
        base=BASE,
        wave_id=wave_id_of(job_id, step),
        job_id=job_id,
        policy_id=POLICY,
        step=step,
        revision=revision_of(wave_id_of(job_id, step - 1), step - 1) if step > 1 else None,
        record=make_claim(f"waves/{step}.rec"),
        validation=None,
        reward_mean=0.5,
        lora=event.lora,
        spec=event.spec,
    )


def cancelled(step: int) -> WaveCancelled:
    return WaveCancelled(
        tenant_id=TENANT,
        base=BASE,
        wave_id=wave_id_of(JOB, step),
        job_id=JOB,
        policy_id=POLICY,
        reason="the engine refused",
    )


def step_job(job: Job, fact: Fact, *, now: float = 1.0) -> tuple[Job, tuple[object, ...]]:
    steps = next_steps(job, fact)
    claims = {step: make_claim(f"waves/{step}.prompts") for step in steps}
    moved = advance(job, fact, cause=f"cause of {fact.id}", prompts=claims, now=now)
    requested = [event.step for event in moved.events if isinstance(event, WaveRequested)]
    assert requested == list(steps)
    return moved.job, moved.events


def begun(staleness: int = 0) -> tuple[Job, tuple[object, ...]]:
    event = submitted(steps=STEPS)
    waiting = open_job(replace(event, spec=replace(event.spec, staleness=staleness)), now=0.0)
    claims = {step: make_claim(f"waves/{step}.prompts") for step in waiting.due_steps}
    moved = begin(waiting, claims, revision=None, cause="start", now=0.0)
    return moved.job, moved.events


def test_a_job_requests_a_wave_at_each_published_revision_and_then_succeeds() -> None:
    job, (first,) = begun()
    assert isinstance(first, WaveRequested)
    assert (first.step, first.revision) == (1, None)
    for step in range(1, STEPS):
        job, (echo,) = step_job(job, completed(step))
        assert echo == completed(step)
        job, (wave,) = step_job(job, published(step))
        assert isinstance(wave, WaveRequested)
        assert (wave.step, wave.revision) == (step + 1, published(step).revision)
        assert wave.wave_id == wave_id_of(JOB, step + 1)
    job, _ = step_job(job, completed(STEPS))
    job, (end,) = step_job(job, published(STEPS), now=9.0)
    assert isinstance(end, JobFinished)
    assert (end.outcome, end.steps_done, end.last_revision) == (
        "succeeded",
        STEPS,
        published(STEPS).revision.digest,
    )
    assert (job.state, job.finished_at) == (JobState.SUCCEEDED, 9.0)


def test_a_job_waits_on_the_cause_of_its_last_events() -> None:
    job, _ = begun()
    assert job.cause == "start"
    job, _ = step_job(job, completed(1))
    assert job.cause == f"cause of {completed(1).id}"
    job, _ = step_job(job, published(1))
    assert job.cause == f"cause of {published(1).id}"


def test_a_job_of_a_policy_with_revisions_begins_at_the_newest() -> None:
    newest = revision_of(wave_id_of(JobId("job_before"), 9), 9)
    waiting = open_job(submitted(), now=0.0)
    moved = begin(waiting, {1: make_claim("p")}, revision=newest, cause="start", now=0.0)
    job, (wave,) = moved.job, moved.events
    assert isinstance(wave, WaveRequested)
    assert wave.revision == newest
    _, (end,) = step_job(job, training_failed(1))
    assert isinstance(end, JobFinished)
    assert end.last_revision is None


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        (rejected(1), "revision rejected (adapter_invalid): rank 64 is above 16"),
        (training_failed(1), "training failed (blob_corrupt): the record is torn"),
        (cancelled(1), "wave cancelled: the engine refused"),
    ],
)
def test_a_failed_wave_fails_its_job_with_the_reason(fact: Fact, reason: str) -> None:
    job, _ = begun()
    job, events = step_job(job, fact)
    assert (job.state, job.reason) == (JobState.FAILED, reason)
    end = events[-1]
    assert isinstance(end, JobFinished)
    assert (end.outcome, end.reason) == ("failed", reason)
    assert (fact in events) == isinstance(fact, WaveCancelled)


def test_cancelling_ends_the_open_wave_and_the_job_once() -> None:
    job, _ = begun()
    moved = stop(job, "cancelled", "enough", now=5.0)
    assert [type(event) for event in moved.events] == [WaveCancelled, JobFinished]
    assert moved.job.state is JobState.CANCELLED
    assert stop(moved.job, "cancelled", "again", now=6.0).events == ()


def test_cancelling_a_job_that_waits_ends_no_wave() -> None:
    moved = stop(open_job(submitted(), now=0.0), "cancelled", "enough", now=5.0)
    assert [type(event) for event in moved.events] == [JobFinished]
    assert (moved.job.state, moved.job.finished_at) == (JobState.CANCELLED, 5.0)


FACTS: tuple[Fact, ...] = (
    *(completed(step) for step in range(1, STEPS + 2)),
    *(published(step) for step in range(1, STEPS + 2)),
    rejected(2),
    training_failed(3),
    cancelled(2),
    completed(1, job_id=JobId("job_other")),
    published(1, job_id=JobId("job_other")),
)


windows = st.integers(0, STEPS)


def handled(job: Job, fact: Fact) -> tuple[Job, tuple[object, ...]]:
    """Return the job after a delivery; one that comes too early is delivered again later."""
    try:
        return step_job(job, fact)
    except Unavailable:
        return job, ()


@given(facts=st.lists(st.sampled_from(FACTS), max_size=40), staleness=windows)
def test_no_order_and_no_duplicate_breaks_the_chain(facts: list[Fact], staleness: int) -> None:
    """At every commit the samples that are open or waiting to be trained are within the bound."""
    job, events = begun(staleness)
    seen = [*events]
    for fact in facts:
        before = job
        job, events = handled(job, fact)
        seen += events
        if before.state is not JobState.RUNNING:
            assert (job, events) == (before, ())
        assert before.steps_done <= job.steps_done <= before.steps_done + 1
        assert job.requested <= job.steps_done + staleness + 1
    waves = [event for event in seen if isinstance(event, WaveRequested)]
    assert [wave.step for wave in waves] == list(range(1, len(waves) + 1))
    for wave in waves:
        sampled = max(0, wave.step - 1 - staleness)
        assert wave.revision == (published(sampled).revision if sampled else None)
    ends = [event for event in seen if isinstance(event, JobFinished)]
    assert len(ends) == (job.state is not JobState.RUNNING)
    assert len(waves) == min(job.steps_done + staleness + 1, STEPS)
    if job.state is JobState.FAILED:  # nothing that it asked for goes on
        over = {event.wave_id for event in seen if isinstance(event, WaveCancelled)}
        still_open = {wave_id_of(JOB, step) for step in range(job.step, job.requested + 1)}
        failed_elsewhere = {rejected(2).wave_id, training_failed(3).wave_id}
        assert still_open - over <= failed_elsewhere


@given(
    facts=st.permutations([fact for fact in FACTS if isinstance(fact, WaveCompleted | RevisionPublished)]),
    staleness=windows,
)
def test_repeating_everything_often_enough_always_finishes_the_job(facts: list[Fact], staleness: int) -> None:
    job, _ = begun(staleness)
    for _ in range(STEPS):
        for fact in facts:
            job, _ = handled(job, fact)
    assert job.state is JobState.SUCCEEDED


def test_cancelling_ends_every_wave_that_runs_ahead() -> None:
    job, events = begun(staleness=2)
    assert [event.step for event in events if isinstance(event, WaveRequested)] == [1, 2, 3]
    job, _ = step_job(job, published(1))
    *waves, _ = stop(job, "cancelled", "enough", now=5.0).events
    assert [wave.wave_id for wave in waves if isinstance(wave, WaveCancelled)] == [
        wave_id_of(JOB, 2),
        wave_id_of(JOB, 3),
    ]


def test_a_job_that_pauses_takes_its_open_steps_and_then_catches_up() -> None:
    event = submitted(steps=9)
    waiting = open_job(replace(event, spec=replace(event.spec, staleness=1)), now=0.0)
    claims = {step: make_claim(f"waves/{step}.prompts") for step in range(1, 10)}
    job = begin(waiting, claims, revision=None, cause="start", now=0.0).job
    job = pause(job, now=1.0).job
    steps = []
    for step in (1, 2):
        moved = advance(job, published(step), cause=str(step), prompts=claims, now=2.0)
        job = moved.job
        assert moved.events == ()
        steps.append((job.state, job.steps_done))
    assert steps == [(JobState.RUNNING, 1), (JobState.PAUSED, 2)]
    resumed = resume(job, claims, cause="go on", now=3.0)
    assert [event.step for event in resumed.events if isinstance(event, WaveRequested)] == [3, 4]
    assert list(resumed_steps(job)) == [3, 4]


def idle(step: int) -> RevisionPublished:
    return replace(published(step), metrics={"trained_tokens": 0.0})


@pytest.mark.parametrize(("learnt", "outcome"), [(0, JobState.FAILED), (1, JobState.SUCCEEDED)])
def test_a_job_ends_when_nothing_has_a_signal_any_more(learnt: int, outcome: JobState) -> None:
    """Instead of sampling on: after 10 steps and 128 prompts whose answers all had the same reward."""
    event = submitted(steps=1000, prompts_per_step=8)
    waiting = open_job(replace(event, spec=replace(event.spec, staleness=1)), now=0.0)
    claims = {step: make_claim(f"waves/{step}.prompts") for step in range(1, 100)}
    job = begin(waiting, claims, revision=None, cause="start", now=0.0).job
    events: tuple[object, ...] = ()
    while job.state is JobState.RUNNING:
        fact = (published if job.steps_done < learnt else idle)(job.step)
        moved = advance(job, fact, cause=fact.id, prompts=claims, now=1.0)
        job, events = moved.job, moved.events
    assert (job.state, job.steps_done, job.stopped_early) == (outcome, learnt + 16, True)
    assert job.reason.startswith(
        "no learning signal: in the last 16 steps all answers to each of 128 prompts"
    )
    assert (job.result is not None) == (outcome is JobState.SUCCEEDED)
    ahead, end = events
    assert isinstance(ahead, WaveCancelled)
    assert isinstance(end, JobFinished)
