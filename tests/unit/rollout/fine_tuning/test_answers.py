"""What users see of a job on a file."""

import csv
import io
from dataclasses import replace

import pytest
from openai.pagination import SyncCursorPage
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from mint_common.datasets import Format
from mint_common.errors import InvalidField, NotFound
from services.rollout.core.fault import JobFault
from services.rollout.core.fine_tuning.answers import (
    checkpoints,
    job_answer,
    metadata_wanted,
    page_of,
    results_csv,
    results_file,
)
from services.rollout.core.fine_tuning.events import job_events
from services.rollout.core.fine_tuning.plan import JobFiles
from services.rollout.core.job import JobState
from services.rollout.core.job_view import JobProgress, job_view
from services.rollout.core.progress import BestMeasured
from services.rollout.core.wave import Wave, WaveCounts
from tests.testing.factories import EXACT
from tests.unit.rollout.fine_tuning.making import (
    REINFORCEMENT,
    body,
    file,
    plan,
    progress,
    revision,
    step,
    submitted,
)

FILES = JobFiles(training=file(rows=16), validation=file(name="valid", rows=4))
SUPERVISED = plan(
    body(
        validation_file="file-valid",
        hyperparameters={"n_epochs": 2, "batch_size": 8},
        mint={"evaluation": {"every": 2}},
    ),
    files=FILES,
)


def test_no_answer_says_where_the_bytes_of_files_are_stored():
    answer = job_view(progress(submitted(SUPERVISED)))
    assert answer["spec"]["data"]["training"]["file_id"] == "file-train"
    assert answer["spec"]["data"]["evaluation"]["file"]["file_id"] == "file-valid"
    assert "uri" not in str(answer)


def published(number: int, **values) -> Wave:
    return step(number, led_to=revision(number + 10, f"sha256:{number}"), loss=3.0 - number / 2, **values)


STEPS = (
    published(1),
    published(2, valid_loss=2.2, valid_mean_token_accuracy=0.5),
    published(3),
    published(4, valid_loss=2.4),
)
JOB = submitted(SUPERVISED, warnings=("look out", "and here"))
RUNNING = progress(
    JOB, *STEPS[:3], step(4, led_to=None), of_job={"state": JobState.RUNNING}, step=3, started_at=100.9
)
BEST = BestMeasured(digest="sha256:2", number=12, step=2, metric="valid_loss", value=2.2)
DONE = progress(
    JOB,
    *STEPS,
    of_job={
        "state": JobState.SUCCEEDED,
        "finished_at": 110.9,
        "result": revision(12, "sha256:2"),
    },
    step=4,
    started_at=100.9,
    best=BEST,
    trained_tokens=345,
)


def shown(now: JobProgress, at: float = 104.0) -> FineTuningJob:
    """Return a job as OpenAI's client reads it, strictly."""
    return FineTuningJob.model_validate(job_answer(now, at=at))


def test_openai_s_own_types_read_a_job_in_every_state():
    waiting = shown(progress(JOB))
    assert (waiting.status, waiting.fine_tuned_model, waiting.result_files) == ("queued", None, [])
    assert (waiting.training_file, waiting.validation_file) == ("file-train", "file-valid")
    assert (waiting.hyperparameters.n_epochs, waiting.hyperparameters.batch_size) == (2, 8)
    assert waiting.method.supervised.hyperparameters.n_epochs == 2
    assert (waiting.error, waiting.trained_tokens, waiting.estimated_finish) == (None, None, None)
    running = shown(RUNNING)
    assert (running.status, running.fine_tuned_model, running.trained_tokens) == ("running", None, None)
    assert running.estimated_finish == 105
    done = shown(DONE)
    assert (done.status, done.fine_tuned_model, done.trained_tokens) == ("succeeded", "tiny-mine@12", 345)
    assert (done.created_at, done.finished_at, len(done.result_files)) == (100, 110, 1)
    assert done.mint["warnings"] == ["look out", "and here"]
    assert done.mint["evaluation"]["file"] == "file-valid"


def test_a_failure_names_the_line():
    fault = JobFault(code="too_long", message="Line 7: too long", param="training_file", line=7)
    state = {"state": JobState.FAILED, "finished_at": 103.0}
    failed = progress(JOB, of_job={**state, "reason": "r", "fault": fault})
    error = shown(failed).error
    assert (error.code, error.message, error.param, error.line) == (
        "too_long",
        "Line 7: too long",
        "training_file",
        7,
    )
    event = next(job_events(failed))
    assert (event["level"], event["message"]) == ("error", "The job failed: Line 7: too long")
    plain = shown(progress(JOB, of_job={**state, "reason": "the trainer is gone"})).error
    assert (plain.code, plain.message) == ("job_failed", "the trainer is gone")


def messages(now: JobProgress) -> list[str]:
    """Return the messages of a job's events, oldest first."""
    return [FineTuningJobEvent.model_validate(event).message for event in reversed([*job_events(now)])]


def test_events_have_the_texts_that_users_search_for():
    assert messages(DONE) == [
        f"Created fine-tuning job: ftjob-{'a' * 26}",
        "Validating training file: file-train and validation file: file-valid",
        "look out",
        "and here",
        "Files validated, moving job to queued state",
        "Fine-tuning job started",
        "Step 1/4: training loss=2.50",
        "Step 2/4: training loss=2.00, validation loss=2.20",
        "Checkpoint created at step 2 with Snapshot ID: tiny-mine@12",
        "Step 3/4: training loss=1.50",
        "Step 4/4: training loss=1.00, validation loss=2.40",
        "Checkpoint created at step 4 with Snapshot ID: tiny-mine@14",
        "New fine-tuned model created: tiny-mine@12",
        "The job has successfully completed",
    ]


def test_events_of_reinforcement_tell_rewards_and_what_graders_got_wrong():
    files = JobFiles(training=file(Format.REWARD, rows=8), validation=file(Format.REWARD, name="valid"))
    job = submitted(plan(body(method=REINFORCEMENT, validation_file="file-valid"), files=files))
    counts = WaveCounts(grader_errors={"other_error": 2}, dropped_rows=3)
    first = published(1, reward_mean=0.42, valid_reward_mean=0.68, counts=counts)
    now = progress(job, first, of_job={"state": JobState.RUNNING}, step=1, started_at=100.9)
    assert messages(now)[-5:] == [
        "Step 1/12, train mean reward=0.42",
        "Step 1/12: grader errors: other_error=2",
        "Step 1/12: 3 rows were longer than the context, and left out",
        "Step 1/12, full validation mean reward=0.68",
        "Checkpoint created at step 1 with Snapshot ID: tiny-mine@11",
    ]
    assert job_answer(now, at=0)["method"]["reinforcement"]["grader"] == EXACT


def test_what_a_revision_scored_is_told_when_it_is_known():
    files = JobFiles(training=file(Format.REWARD, rows=8), validation=file(Format.REWARD, name="valid"))
    job = submitted(plan(body(method=REINFORCEMENT, validation_file="file-valid"), files=files))
    first, second = published(1, reward_mean=0.25), published(2, reward_mean=0.5)
    measured = {"loss": 1.0, "valid_reward_mean": 0.75}
    now = progress(job, first, second, of_job={"state": JobState.RUNNING}, step=2, started_at=100.9)
    scored = (
        replace(first, metrics=measured, scored_at=105.0),
        replace(second, metrics=measured, scored_at=104.0),
    )
    later = replace(now, waves=scored)
    assert messages(later)[-6:] == [
        "Step 1/12, train mean reward=0.25",
        "Step 2/12, train mean reward=0.50",
        "Step 2/12, full validation mean reward=0.75",
        "Checkpoint created at step 2 with Snapshot ID: tiny-mine@12",
        "Step 1/12, full validation mean reward=0.75",
        "Checkpoint created at step 1 with Snapshot ID: tiny-mine@11",
    ]
    times = [event["created_at"] for event in job_events(later)]
    assert times == sorted(times, reverse=True)
    before = [event["id"] for event in job_events(now)]
    assert [event["id"] for event in job_events(later)][-len(before) :] == before


def test_events_keep_their_ids_and_their_order_while_a_job_goes_on():
    before = [event["id"] for event in job_events(RUNNING)]
    after = [event["id"] for event in job_events(DONE)]
    assert after[-len(before) :] == before
    assert len(set(after)) == len(after)


@pytest.mark.parametrize("limit", [1, 2, 5, 100])
def test_pages_have_every_item_once(limit):
    every = list(job_events(DONE))
    found, after = [], None
    while True:
        page = page_of(iter(every), kind="event", after=after, limit=limit)
        SyncCursorPage[FineTuningJobEvent].model_validate(page)
        found += page["data"]
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert found == every
    with pytest.raises(NotFound):
        page_of(iter(every), kind="event", after="ftevent-none", limit=limit)


def test_checkpoints_are_the_evaluated_steps_and_the_last_one():
    found = [FineTuningJobCheckpoint.model_validate(each) for each in checkpoints(DONE)]
    assert [(each.step_number, each.fine_tuned_model_checkpoint) for each in found] == [
        (4, "tiny-mine@14"),
        (2, "tiny-mine@12"),
    ]
    assert [each.mint["best"] for each in found] == [False, True]
    assert (found[1].metrics.valid_loss, found[1].metrics.full_valid_loss) == (2.2, 2.2)
    assert [each["step_number"] for each in checkpoints(RUNNING)] == [2]
    bare = submitted(plan(body(), files=FILES))
    state = {"state": JobState.SUCCEEDED, "finished_at": 1.0}
    unmeasured = progress(bare, published(1), published(2), of_job=state, step=2)
    assert [each["step_number"] for each in checkpoints(unmeasured)] == [2]


def test_results_are_a_table_of_the_steps():
    rows = list(csv.DictReader(io.StringIO(results_csv(DONE).decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert (rows[1]["train_loss"], rows[1]["valid_loss"], rows[0]["valid_loss"]) == ("2.0", "2.2", "")
    told = results_file(DONE.job, size_bytes=5)
    assert (told["id"], told["purpose"]) == (f"file-results-{'a' * 26}", "fine-tune-results")


def test_metadata_selects():
    assert metadata_wanted([("limit", "2")]) == {}
    assert metadata_wanted([("metadata[team]", "a"), ("metadata[b]", "")]) == {"team": "a", "b": ""}
    assert metadata_wanted([("metadata", "null")]) is None
    for query in ([("metadata", "{}")], [("metadata[\0]", "a")], [(f"metadata[{n}]", "") for n in range(17)]):
        with pytest.raises(InvalidField):
            metadata_wanted(query)
