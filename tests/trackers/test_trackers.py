"""Each tracker gets every step of a job once, though `mint track` is killed; its own client reads it back."""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clients.environments import ROOT, make_environment
from e2e.stack import RunningStack, mint, start_stack
from openai import OpenAI
from trackers.recording import Recording, recording

from services.standalone.adapters.launch import free_port

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(1200)]

CLIENT = ("httpx", "msgspec", "rich", "typer", "zstandard")
MLFLOW, TRACKIO, TENSORBOARD = "mlflow==3.17.2", "trackio==0.43.0", "tensorboard==2.21.0"
WANDB, WANDB_READER = "wandb==0.31.0", "wandb==0.22.3"
"""The newest wandb has no reader of its files in Python."""
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}
ROWS = ROOT / "examples/reverse"
KILLED_AFTER = 10, 25
SCORED = 3
WANDB_NAMES = {"type": "wandb", "wandb": {"project": "mine"}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads a job back by a tracker's own client."""

    python: Path
    tracker: str
    place: str
    environ: Mapping[str, str]

    def read(self, job: Mapping[str, Any]) -> dict[str, Any]:
        script = Path(__file__).with_name("readers.py")
        command = [self.python, script, self.tracker, self.place, job["policy"], job["job_id"]]
        done = subprocess.run(command, env=dict(self.environ), capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose operator records the own tenant at W&B."""
    running = start_stack(tmp_path_factory.mktemp("stack"), {"MINT_ROLLOUT_WANDB_TENANTS": "default"})
    yield running
    running.stop()


def at_gateway(stack: RunningStack) -> str:
    return str(stack.http.base_url).rstrip("/")


def start_job(stack: RunningStack, suffix: str, **more: Any) -> str:
    """Begin a job of some 40 steps by OpenAI's client; return its id."""
    with OpenAI(base_url=f"{stack.http.base_url}/v1", api_key=stack.api_key, max_retries=0) as client:
        files = [
            client.files.create(file=ROWS / name, purpose="fine-tune").id
            for name in ("supervised.jsonl", "supervised-held-out.jsonl")
        ]
        numbers: Any = {"n_epochs": 2, "batch_size": 4}
        made = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=files[0],
            validation_file=files[1],
            suffix=suffix,
            method={"type": "supervised", "supervised": {"hyperparameters": numbers}},
            **more,
        )
    return made.id.replace("ftjob-", "job_")


@contextmanager
def recorded(
    stack: RunningStack, folder: Path, tracker: str, at: str, job_id: str, **more: Any
) -> Iterator[Recording]:
    """Yield `mint track` of one job, running."""
    options = ("--to", tracker, "--at", at, "--job", job_id)
    with recording(at_gateway(stack), stack.api_key, folder, *options, **more) as run:
        yield run


def killed_twice(stack: RunningStack, run: Recording, job_id: str) -> Any:
    """Kill the subscriber twice while the job trains, let it end, and return the job."""
    for step in KILLED_AFTER:
        job = stack.wait_for_step(job_id, step)
        if step == KILLED_AFTER[0]:
            number = job["steps"][SCORED - 1]["revision"]["number"]
            policy = f"/policies/{job['policy']}"
            score = {"revision": number, "suite": "exam", "metric": "accuracy", "value": 0.75, "n": 64}
            stack.post(f"{policy}/evaluations", score, status=201)
            moved = stack.http.put(f"/mint/v1{policy}/aliases/prod", json={"revision": number})
            assert moved.status_code == 200, moved.text
        run.kill()
        run.start()
    job = stack.wait_for_end(job_id)
    assert job["state"] == "succeeded", job
    assert run.ends() == 0, run.said
    return job


def has_each_step_once(found: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Compare what a tracker has with the job's own steps."""
    assert "points" in found, found
    points = {name: sorted(told) for name, told in found["points"].items()}
    for name, metric in (("train/loss", "loss"), ("eval/loss", "valid_loss")):
        steps = [step for step in job["steps"] if step.get(metric) is not None]
        assert [step for step, _ in points[name]] == [step["step"] for step in steps], name
        assert [value for _, value in points[name]] == pytest.approx([step[metric] for step in steps])
    assert len(points["train/loss"]) == len(job["steps"]) > KILLED_AFTER[1]


def has_the_score(found: Mapping[str, Any]) -> None:
    assert found["points"]["eval/exam/accuracy"] == [[SCORED, 0.75]]


@contextmanager
def mlflow_server(python: Path, folder: Path, port: int) -> Iterator[str]:
    """Run `mlflow server` on SQLite."""
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db")
    artifacts = ("--default-artifact-root", f"{folder}/art")
    command = [
        python.with_name("mlflow"),
        "server",
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
        *artifacts,
    ]
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                if httpx.get(f"{url}/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield url
    finally:
        subprocess.run(["kill", "--", f"-{process.pid}"], check=True)
        process.wait()


def test_mlflow(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("mlflow", MLFLOW)
    port = free_port()
    at = f"http://127.0.0.1:{port}"
    job_id = start_job(stack, "mlflow")
    with recorded(stack, tmp_path, "mlflow", at, job_id) as run:
        run.wait_for(lambda: f"MLflow at {at} does not answer" in run.said, "the missing server")
        with mlflow_server(python, tmp_path, port):
            job = killed_twice(stack, run, job_id)
            found = Reader(python=python, tracker="mlflow", place=at, environ=OFFLINE).read(job)
    has_each_step_once(found, job)
    has_the_score(found)
    numbers = [str(step["revision"]["number"]) for step in job["steps"]]
    assert found["status"] == "FINISHED"
    assert found["config"]["data.training.file_id"] == job["spec"]["data"]["training"]["file_id"]
    assert found["tags"]["mint.base_digest"] == stack.get("/bases/tiny")["digest"]
    assert sorted(found["versions"], key=int) == numbers
    assert found["aliases"] == {"prod": found["versions"][numbers[SCORED - 1]]}
    assert found["adapters"][0].startswith(f"{at_gateway(stack)}/mint/v1/policies/{job['policy']}/revisions/")


def test_trackio(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("trackio", TRACKIO, *CLIENT)
    environ = {**OFFLINE, "TRACKIO_DIR": str(tmp_path / "trackio")}
    job_id = start_job(stack, "trackio")
    with recorded(stack, tmp_path, "trackio", "trackio", job_id, python=python, environ=environ) as run:
        job = killed_twice(stack, run, job_id)
    found = Reader(python=python, tracker="trackio", place="", environ=environ).read(job)
    has_each_step_once(found, job)
    has_the_score(found)
    assert found["config"]["data.training.file_id"] == job["spec"]["data"]["training"]["file_id"]


def test_tensorboard(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("tensorboard", TENSORBOARD)
    job_id = start_job(stack, "board")
    with recorded(stack, tmp_path, "tensorboard", "runs", job_id) as run:
        job = killed_twice(stack, run, job_id)
    place = str(tmp_path / "runs")
    found = Reader(python=python, tracker="tensorboard", place=place, environ=OFFLINE).read(job)
    has_each_step_once(found, job)
    has_the_score(found)


def test_wandb_offline(stack: RunningStack, tmp_path: Path) -> None:
    python = make_environment("wandb", WANDB, *CLIENT)
    its_reader = make_environment("wandb-reader", WANDB_READER)
    job_id = start_job(stack, "wandb", integrations=[WANDB_NAMES])
    with recorded(stack, tmp_path, "wandb", "files", job_id, python=python, environ=OFFLINE) as run:
        job = killed_twice(stack, run, job_id)
    place = str(tmp_path / "files")
    found = Reader(python=its_reader, tracker="wandb", place=place, environ=OFFLINE).read(job)
    has_each_step_once(found, job)
    has_the_score(found)
    number = job["steps"][SCORED - 1]["revision"]["number"]
    assert {f"revision-{number}", "prod"} <= set(found["aliases"][str(number)])
    assert found["latest"] == str(job["steps"][-1]["revision"]["number"])


def test_parts_of_a_stack_record_its_jobs(tmp_path: Path) -> None:
    """One tracker's part is killed, another's server is away: `mint status` says so, the job goes on."""
    python = make_environment("tensorboard", TENSORBOARD)
    file = tmp_path / "mint.yaml"
    trackers = "  - to: tensorboard\n    at: runs\n  - to: mlflow\n    at: http://127.0.0.1:9\n"
    file.write_text(f"bases:\n  tiny:\ntrackers:\n{trackers}")
    stack = start_stack(tmp_path / "stack", file=file)
    try:
        job_id = start_job(stack, "part")
        stack.wait_for_step(job_id, KILLED_AFTER[0])
        stack.kill("track-tensorboard")
        job = stack.wait_for_end(job_id)
        place = str(stack.folder / "runs")
        reader = Reader(python=python, tracker="tensorboard", place=place, environ=OFFLINE)
        deadline = time.monotonic() + 120
        while len(reader.read(job).get("points", {}).get("train/loss", ())) < len(job["steps"]):
            assert time.monotonic() < deadline, stack.logs()
        has_each_step_once(reader.read(job), job)
        told = mint("status", "--dir", stack.folder)
        assert told.returncode == 0, told.stdout
        assert "MLflow at http://127.0.0.1:9 does not answer" in " ".join(told.stdout.split())
        assert stack.parts()["track-tensorboard"]["restarts"] == 1
    finally:
        stack.stop()
