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
from clients.environments import make_environment
from trackers.recording import Recording, recording
from trackers.scripted_gateway import ScriptedGateway, scripted_gateway

from services.standalone.adapters.launch import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CLIENT = ("httpx", "msgspec", "rich", "typer", "zstandard")
MLFLOW, TRACKIO, TENSORBOARD = "mlflow==3.17.2", "trackio==0.43.0", "tensorboard==2.21.0"
WANDB, WANDB_READER = "wandb==0.31.0", "wandb==0.22.3"
"""The newest wandb has no reader of its files in Python."""
STEPS = 12
OFFLINE = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads a job back by a tracker's own client."""

    python: Path
    tracker: str
    place: str
    environ: Mapping[str, str]

    def read(self, job_id: str) -> dict[str, Any]:
        script = Path(__file__).with_name("readers.py")
        command = [self.python, script, self.tracker, self.place, job_id]
        done = subprocess.run(command, env=dict(self.environ), capture_output=True, text=True, check=False)
        if done.returncode:
            return {"error": done.stderr}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with scripted_gateway() as served:
        yield served


def record_a_killed_job(gateway: ScriptedGateway, run: Recording, reader: Reader) -> dict[str, Any]:
    """Kill the subscriber twice while a job has 12 steps; return what the tracker has of it afterwards."""
    for step in range(STEPS):
        gateway.step("job_a", **({"valid_loss": 1.0 / (step + 1)} if step % 3 == 2 else {}))
        if step in (4, 8):
            # It is killed where it is: most likely while it records.
            time.sleep(2.0 if step == 4 else 8.0)
            run.kill()
            run.start()
    gateway.score(3, "exam", "accuracy", 0.75)
    gateway.move("prod", STEPS)
    gateway.end("job_a")
    assert run.ends() == 0, run.said
    return reader.read("job_a")


def has_each_step_once(found: Mapping[str, Any]) -> None:
    points = {name: sorted(step for step, _ in told) for name, told in found["points"].items()}
    assert points["train/loss"] == list(range(1, STEPS + 1)), found
    assert points["train/learning_rate"] == points["train/loss"]
    assert points["eval/loss"] == [3, 6, 9, 12]
    assert points["eval/exam/accuracy"] == [3]
    assert dict(found["points"]["train/loss"])[4] == pytest.approx(0.25)


@contextmanager
def mlflow_server(python: Path, folder: Path, port: int) -> Iterator[str]:
    """Run `mlflow server` on SQLite."""
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--default-artifact-root",
        f"{folder}/art",
    ]
    command = [python.with_name("mlflow"), "server", "--port", str(port), "--workers", "1", *store]
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


def test_mlflow(gateway: ScriptedGateway, tmp_path: Path) -> None:
    python = make_environment("mlflow", MLFLOW)
    port = free_port()
    gateway.start("job_a")
    at = f"http://127.0.0.1:{port}"
    with recording(gateway, tmp_path, "--to", "mlflow", "--at", at, "--job", "job_a") as run:
        run.wait_for(lambda: f"MLflow at {at} does not answer" in run.said, "the missing server")
        with mlflow_server(python, tmp_path, port):
            reader = Reader(python=python, tracker="mlflow", place=at, environ=OFFLINE)
            found = record_a_killed_job(gateway, run, reader)
    has_each_step_once(found)
    assert found["status"] == "FINISHED"
    assert found["config"]["data.training.file_id"] == "file-rows"
    assert found["tags"]["mint.base_digest"] == "sha256:" + "b" * 64
    assert found["versions"] == {str(number): str(number) for number in range(1, STEPS + 1)}
    assert found["aliases"] == {"prod": str(STEPS)}
    assert found["sources"][0].startswith(f"{gateway.url}/mint/v1/policies/counter/revisions/")


def test_trackio(gateway: ScriptedGateway, tmp_path: Path) -> None:
    python = make_environment("trackio", TRACKIO, *CLIENT)
    environ = {**OFFLINE, "TRACKIO_DIR": str(tmp_path / "trackio")}
    gateway.start("job_a")
    options = ("--to", "trackio", "--at", "trackio", "--job", "job_a")
    with recording(gateway, tmp_path, *options, python=python, environ=environ) as run:
        reader = Reader(python=python, tracker="trackio", place="", environ=environ)
        found = record_a_killed_job(gateway, run, reader)
    has_each_step_once(found)
    assert found["config"]["data.training.file_id"] == "file-rows"


def test_tensorboard(gateway: ScriptedGateway, tmp_path: Path) -> None:
    python = make_environment("tensorboard", TENSORBOARD)
    gateway.start("job_a")
    with recording(gateway, tmp_path, "--to", "tensorboard", "--at", "runs", "--job", "job_a") as run:
        place = str(tmp_path / "runs")
        reader = Reader(python=python, tracker="tensorboard", place=place, environ=OFFLINE)
        found = record_a_killed_job(gateway, run, reader)
    has_each_step_once(found)


def test_wandb_offline(gateway: ScriptedGateway, tmp_path: Path) -> None:
    python, its_reader = (
        make_environment("wandb", WANDB, *CLIENT),
        make_environment("wandb-reader", WANDB_READER),
    )
    gateway.start("job_a", fine_tuning={"integrations": [{"type": "wandb", "wandb": {"project": "mine"}}]})
    options = ("--to", "wandb", "--at", "files", "--job", "job_a")
    with recording(gateway, tmp_path, *options, python=python, environ=OFFLINE) as run:
        place = str(tmp_path / "files")
        reader = Reader(python=its_reader, tracker="wandb", place=place, environ=OFFLINE)
        found = record_a_killed_job(gateway, run, reader)
    has_each_step_once(found)
    assert found["aliases"][str(STEPS)] == [f"revision-{STEPS}", "prod"]
