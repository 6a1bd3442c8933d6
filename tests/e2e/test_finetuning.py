"""Fine-tuning as its users do it: OpenAI's own client, unmodified, `mint train` and the example."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e.stack import JOB_SECONDS, RunningStack, mint, start_stack
from openai import BadRequestError, OpenAI
from openai.types.fine_tuning import FineTuningJob

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = EXAMPLES / "reverse"
ENDED = {"succeeded", "failed", "cancelled"}
GRADER = json.loads((ROWS / "grader.json").read_text())
SETTINGS = {"n_epochs": 3, "batch_size": 16}
FAST = {"learning_rate": 2e-3}
"""The tiny base bears it."""
SUPERVISED = {"type": "supervised", "supervised": {"hyperparameters": SETTINGS}}
DPO = {"type": "dpo", "dpo": {"hyperparameters": {**SETTINGS, "beta": 0.1}}}
REINFORCEMENT = {
    "type": "reinforcement",
    "reinforcement": {
        "grader": GRADER,
        "hyperparameters": {"n_epochs": 2, "batch_size": 8, "eval_interval": 8},
    },
}


@pytest.fixture(scope="module")
def client(stack: RunningStack) -> Iterator[OpenAI]:
    with client_of(stack) as client:
        yield client


def client_of(stack: RunningStack) -> OpenAI:
    return OpenAI(base_url=f"{stack.http.base_url}/v1", api_key=stack.api_key, max_retries=0)


def upload(client: OpenAI, name: str) -> str:
    return client.files.create(file=ROWS / name, purpose="fine-tune").id


def start(
    client: OpenAI, method: Any, *, rows: str = "", model: str = "tiny", mint: Any = FAST, **more: Any
) -> FineTuningJob:
    """Begin a job on one of the example's files and its held-out rows."""
    rows = rows or method["type"]
    return client.fine_tuning.jobs.create(
        model=model,
        training_file=upload(client, f"{rows}.jsonl"),
        validation_file=upload(client, f"{rows}-held-out.jsonl"),
        method=method,
        seed=7,
        extra_body={"mint": mint},
        **more,
    )


def wait_for(
    client: OpenAI, job: FineTuningJob, *statuses: str, seconds: float = JOB_SECONDS
) -> FineTuningJob:
    """Return a job once it has ended, or has one of some statuses."""
    deadline = time.monotonic() + seconds
    while job.status not in ENDED | set(statuses):
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
        job = client.fine_tuning.jobs.retrieve(job.id)
    return job


def finished(client: OpenAI, job: FineTuningJob, *, seconds: float = JOB_SECONDS) -> FineTuningJob:
    ended = wait_for(client, job, seconds=seconds)
    assert ended.status == "succeeded", ended
    return ended


def measured(client: OpenAI, job: FineTuningJob, metric: str) -> list[float]:
    """Return a metric of a job's checkpoints, in the order of steps."""
    found = sorted(client.fine_tuning.jobs.checkpoints.list(job.id), key=lambda each: each.step_number)
    assert len(found) > 1
    return [getattr(each.metrics, metric) for each in found]


def accuracy(client: OpenAI, model: str) -> float:
    """Return the share of held-out words that a model reverses, asked as a chat."""
    rows = [json.loads(line) for line in (ROWS / "supervised-held-out.jsonl").read_text().splitlines()]
    right = 0
    for asked, wanted in (row["messages"] for row in rows):
        answer = client.chat.completions.create(model=model, messages=[asked], max_tokens=8, temperature=0)
        right += answer.choices[0].message.content == wanted["content"]
    return right / len(rows)


@pytest.fixture(scope="module")
def tuned(client: OpenAI) -> FineTuningJob:
    return finished(client, start(client, SUPERVISED, suffix="reverse", metadata={"team": "a"}))


def test_a_supervised_model_is_better_on_held_out_rows(client: OpenAI, tuned: FineTuningJob) -> None:
    losses = measured(client, tuned, "valid_loss")
    assert losses[-1] < 0.5 * losses[0]
    assert tuned.trained_tokens > 0
    assert tuned.hyperparameters.n_epochs == 3
    assert re.fullmatch(r"[a-z0-9.-]+@\d+", tuned.fine_tuned_model)
    assert accuracy(client, tuned.fine_tuned_model) >= accuracy(client, "tiny") + 0.4


def test_the_events_of_a_job_are_those_that_scripts_look_for(client: OpenAI, tuned: FineTuningJob) -> None:
    events = list(client.fine_tuning.jobs.list_events(tuned.id, limit=100))
    assert len({event.id for event in events}) == len(events)
    assert [event.id for event in client.fine_tuning.jobs.list_events(tuned.id, limit=3)] == [
        event.id for event in events
    ]
    told = "\n".join(event.message for event in reversed(events))
    wanted = (
        rf"Created fine-tuning job: {tuned.id}",
        rf"Validating training file: {tuned.training_file} and validation file: {tuned.validation_file}",
        r"Files validated, moving job to queued state",
        r"Fine-tuning job started",
        r"Step 1/24: training loss=[0-9.]+",
        r"Step 24/24: training loss=[0-9.]+",
        rf"New fine-tuned model created: {tuned.fine_tuned_model}",
        r"The job has successfully completed",
    )
    assert re.search("(?s)" + ".*".join(wanted), told), told
    data = [event.data for event in events if event.type == "metrics"]
    assert {entry["total_steps"] for entry in data} == {24}


def test_the_results_of_a_job_are_a_csv(client: OpenAI, tuned: FineTuningJob) -> None:
    (file,) = tuned.result_files
    rows = list(csv.DictReader(client.files.content(file).text.splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, 25))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])


def test_a_job_is_found_by_its_metadata(client: OpenAI, tuned: FineTuningJob) -> None:
    assert tuned.id in {job.id for job in client.fine_tuning.jobs.list(metadata={"team": "a"})}
    assert tuned.id not in {job.id for job in client.fine_tuning.jobs.list(metadata={"team": "b"})}


def test_a_dpo_model_prefers_what_its_pairs_prefer(client: OpenAI) -> None:
    job = finished(client, start(client, DPO, suffix="preferring"))
    margins = measured(client, job, "valid_reward_margin")
    assert margins[-1] > margins[0]
    assert margins[-1] > 0.1
    assert accuracy(client, job.fine_tuned_model) > accuracy(client, "tiny")


@pytest.mark.slow
def test_a_reinforced_model_has_a_higher_reward_on_held_out_rows(client: OpenAI) -> None:
    job = finished(client, start(client, REINFORCEMENT, suffix="rewarded"))
    rewards = measured(client, job, "valid_reward_mean")
    assert rewards[-1] >= rewards[0] + 0.2
    assert accuracy(client, job.fine_tuned_model) >= accuracy(client, "tiny") + 0.2


def test_a_file_of_another_method_is_refused(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        start(client, SUPERVISED, rows="dpo")
    assert (refused.value.param, refused.value.type) == ("training_file", "invalid_request_error")


def digests(stack: RunningStack, job: FineTuningJob) -> list[str]:
    return [step["revision"]["digest"] for step in stack.job(job.id)["steps"]]


Run = Callable[[str, Callable[[FineTuningJob], None]], list[str]]


@pytest.fixture(scope="module")
def run(stack: RunningStack, client: OpenAI) -> Run:
    """Train a new policy as `tuned` is trained, with a disturbance; return its digests."""

    def train(suffix: str, disturb: Callable[[FineTuningJob], None]) -> list[str]:
        job = start(client, SUPERVISED, suffix=suffix)
        disturb(job)
        finished(client, job)
        return digests(stack, job)

    return train


@pytest.fixture(scope="module")
def undisturbed(stack: RunningStack, tuned: FineTuningJob) -> list[str]:
    return digests(stack, tuned)


def test_a_paused_job_goes_on_as_if_it_had_not_been(
    stack: RunningStack, client: OpenAI, run: Run, undisturbed: list[str]
) -> None:
    def pause(job: FineTuningJob) -> None:
        stack.wait_for_step(job.id, 2)
        client.fine_tuning.jobs.pause(job.id)
        assert wait_for(client, job, "paused").status == "paused"
        assert len(stack.job(job.id)["steps"]) < 24
        client.fine_tuning.jobs.resume(job.id)

    assert run("paused", pause) == undisturbed


@pytest.mark.slow
def test_a_killed_job_ends_with_the_same_bytes(stack: RunningStack, run: Run, undisturbed: list[str]) -> None:
    def kill(job: FineTuningJob) -> None:
        for done, part in ((2, "rollout"), (4, "trainer-tiny"), (6, "rollout"), (6, "trainer-tiny")):
            stack.wait_for_step(job.id, done)
            stack.wait_until_ready()
            stack.kill(part)

    assert run("killed", kill) == undisturbed


def environment(stack: RunningStack) -> dict[str, str]:
    url = str(stack.http.base_url).rstrip("/")
    own = {"MINT_URL": url, "MINT_API_KEY": stack.api_key}
    return {**os.environ, **own, "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": stack.api_key}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["supervised", "dpo", "reinforcement"])
def test_the_example_runs_as_it_stands(stack: RunningStack, method: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "finetune.py"), method],
        env=environment(stack),
        capture_output=True,
        text=True,
        timeout=JOB_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "The job has successfully completed" in done.stdout
    answer = done.stdout.splitlines()[-1]
    assert answer == "dcba" or (method == "dpo" and re.fullmatch("[a-j]+", answer)), answer


def ran(stack: RunningStack, *arguments: object) -> subprocess.CompletedProcess[str]:
    return mint(*arguments, seconds=JOB_SECONDS, env=environment(stack))


def test_mint_train_trains_and_says_how_to_ask(stack: RunningStack, tmp_path: Path) -> None:
    validated = ("--validation", ROWS / "supervised-held-out.jsonl", "--every", 4)
    wish = (*validated, "--epochs", 1, "--promote", "live")
    done = ran(stack, "train", ROWS / "supervised.jsonl", "--base", "tiny", *wish)
    assert done.returncode == 0, done.stderr
    plan = dict(line.split("\t") for line in done.stdout.splitlines() if line.count("\t") == 1)
    assert plan["rows"] == "128 of supervised.jsonl"
    assert plan["steps"] == "16: 1 epoch, 8 rows a step; these are few: --epochs 2"
    asked = re.search(r"^mint ask (\S+)@(\d+) 'f \w+=' --chat$", done.stdout, re.MULTILINE)
    assert asked, done.stdout
    assert "alias live was pointed at it" in done.stdout
    policy, number = asked.groups()
    assert f"live\t{number}\t" in ran(stack, "alias", "list", policy).stdout
    curl = done.stdout[done.stdout.index("curl ") :]
    answered = subprocess.run(
        ["bash", "-c", curl], env=environment(stack), capture_output=True, text=True, check=True
    )
    assert json.loads(answered.stdout)["choices"][0]["message"]["content"]

    file = tmp_path / "curves.csv"
    assert ran(stack, "job", "export", plan["job"], "--csv", file).returncode == 0
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 17)]
    assert [row["step"] for row in rows if row["valid_loss"]] == ["4", "8", "12", "16"]


def test_mint_train_refuses_bad_rows_before_it_sends_them(stack: RunningStack, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text((ROWS / "supervised.jsonl").read_text() + '{"messages": [{"content": "f a="}]}\n')
    done = ran(stack, "train", file, "--base", "tiny")
    assert done.returncode == 1
    assert "129\tmissing_field\t" in done.stderr
    assert "is refused. Problems in its rows: 1." in done.stderr


REAL = {"supervised": ({}, "valid_loss"), "dpo": ({"learning_rate": 2e-4}, "valid_reward_margin")}
"""Settings of MinT's own, and the metric that shows what was learnt."""


def parcel(number: int, method: str) -> dict[str, Any]:
    asked = {"role": "user", "content": f"Where is parcel {number}?"}
    good, bad = f"Parcel {number} is at depot {number % 7}.", "I am not able to tell you that."
    preferred, other = ({"role": "assistant", "content": text} for text in (good, bad))
    if method == "supervised":
        return {"messages": [asked, preferred]}
    return {
        "input": {"messages": [asked]},
        "preferred_output": [preferred],
        "non_preferred_output": [other],
    }


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    stack = start_stack(tmp_path_factory.mktemp("smollm2"), base="smollm2")
    with client_of(stack) as client:
        yield client
    stack.stop()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", REAL)
def test_a_model_of_135_million_parameters_learns(small_model: OpenAI, method: str) -> None:
    extras, metric = REAL[method]
    files = []
    for name, lines in (("train.jsonl", range(100, 148)), ("held-out.jsonl", range(200, 216))):
        rows = "".join(json.dumps(parcel(number, method)) + "\n" for number in lines)
        files.append(small_model.files.create(file=(name, rows.encode()), purpose="fine-tune").id)
    job = small_model.fine_tuning.jobs.create(
        model="smollm2",
        training_file=files[0],
        validation_file=files[1],
        method={"type": method, method: {"hyperparameters": {"n_epochs": 2}}},
        seed=7,
        extra_body={"mint": {**extras, "evaluation": {"every": 4}}},
    )
    values = measured(small_model, finished(small_model, job, seconds=1500), metric)
    assert values[-1] < values[0] if metric == "valid_loss" else values[-1] > values[0]
