"""A stack of the version before: upgraded with its work in flight, rolled back, and upgraded again."""

import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tinker
from e2e.stack import RunningStack, start_stack
from standardwebhooks import Webhook
from tinker import types

from services.standalone.adapters.launch import free_port
from tests.integration.gateway.receiver import Receiver

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[2]
BEFORE = "ca821c12b0b66101c17685e5e781cca056534cb4"
"""The last commit whose gateway owns jobs, files and uploads."""
SETTINGS = {"MINT_GATEWAY_WEBHOOK_ALLOW_PRIVATE": "true"}
ROWS = "".join(
    json.dumps({"prompt": f"f {a}{b}=", "completion": f"{a}{b}"}) + "\n" for a in "abcdefgh" for b in "ijkl"
).encode()
HALVES = (ROWS[:1000], ROWS[1000:])
RL = {"prompts_per_step": 4, "group_size": 8}


@dataclass(kw_only=True)
class Work:
    """What a stack has in hand, by its ids."""

    file: str
    done_job: str
    done_tuning: str
    alias: str
    text: str
    webhook: str
    secret: str
    running_job: str
    running_tuning: str
    upload: str
    part: str
    trainer: tinker.TrainingClient
    losses: list[float]
    checkpoint: str


@dataclass(frozen=True, kw_only=True)
class Place:
    """A state folder, and the versions that run on it."""

    folder: Path
    port: int
    code_before: Path

    @contextmanager
    def today(self) -> Iterator[RunningStack]:
        """Run today's version."""
        yield from _running(start_stack(self.folder, SETTINGS, port=self.port))

    @contextmanager
    def before(self) -> Iterator[RunningStack]:
        """Run the version before, with the packages of today."""
        command = (sys.executable, "-P", "-m", "mint_launcher")
        path = {"PYTHONPATH": os.pathsep.join((str(self.code_before), str(self.code_before / "libs")))}
        yield from _running(start_stack(self.folder, SETTINGS | path, port=self.port, command=command))


def _running(stack: RunningStack) -> Iterator[RunningStack]:
    try:
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def place(stack_folder: Path) -> Place:
    """A new state folder, and the code of the version before."""
    asked = ["git", "-C", str(ROOT), "archive", BEFORE]
    archive = subprocess.run(asked, capture_output=True, check=False)
    if archive.returncode:
        pytest.skip(f"needs the history of the repository: {archive.stderr.decode()}")
    code = stack_folder / "code-before"
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(code, filter="data")
    return Place(folder=stack_folder / "upgraded", port=free_port(), code_before=code)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(status=503)
    yield made
    made.stop()


@pytest.mark.usefixtures("tinker_warnings")
def test_a_whole_stack_is_upgraded_and_rolled_back(place: Place, receiver: Receiver) -> None:
    with place.before() as stack:
        url = f"http://127.0.0.1:{stack.port}"
        service = tinker.ServiceClient(base_url=url, api_key=stack.api_key)
        work = begin(stack, service, receiver)
        seen = read(stack, work)
    with place.today() as stack:
        assert differences(seen, read(stack, work)) == []
        receiver.status = 200
        finish(stack, work, receiver)
        finished = read(stack, work)
        stack.make_policy("later")
        stack.make_policy("latest")
        later_file, later_tuning = upload(stack), tune(stack, work.file, n_epochs=4)
        later_job = stack.submit("later", steps=6, **RL)
        for job in (later_job, later_tuning):
            stack.wait_for_step(job, 1)
    with place.before() as stack:
        assert differences(read(stack, work), finished) == []
        assert text_of(stack, f"{work.alias}@prod") == work.text
        assert later_file not in file_ids(stack)
        assert train(work.trainer)[-1] < work.losses[-1]
        newest = tune(stack, work.file, n_epochs=1), stack.submit("latest", steps=2, **RL)
        for job in newest:  # a later one may wait for an event that this version cannot read
            assert stack.wait_for_end(job)["state"] == "succeeded"
        file_of_before = upload(stack)
        seen = read(stack, work)
    with place.today() as stack:
        assert differences(seen, read(stack, work)) == []
        assert {work.file, later_file, file_of_before} <= set(file_ids(stack))
        for job in (later_job, later_tuning):
            assert stack.wait_for_end(job)["state"] == "succeeded"
        tuned = {job["mint"]["job_id"] for job in stack.http.get("/v1/fine_tuning/jobs").json()["data"]}
        assert {work.running_tuning, later_tuning, newest[0]} <= tuned
        resumed = service.create_training_client_from_state_with_optimizer(work.checkpoint).result()
        assert train(resumed)[-1] < work.losses[-1]
        service.close("success").result(timeout=60)


def begin(stack: RunningStack, service: tinker.ServiceClient, receiver: Receiver) -> Work:
    """Leave a bit of everything done, and a bit of everything under way."""
    stack.make_policy("done")
    stack.make_policy("running")
    file = upload(stack)
    done_job, done_tuning = stack.submit("done", steps=2, **RL), tune(stack, file, n_epochs=1)
    assert [stack.wait_for_end(job)["state"] for job in (done_job, done_tuning)] == ["succeeded"] * 2
    alias = stack.job(done_tuning)["policy"]
    for revision in (1, 2):
        stack.http.put(
            f"/mint/v1/policies/{alias}/aliases/prod", json={"revision": revision}
        ).raise_for_status()
    hook = stack.post("/webhooks", {"url": receiver.url, "event_types": ["alias.moved"]}, status=201)
    stack.http.put(f"/mint/v1/policies/{alias}/aliases/next", json={"revision": 3}).raise_for_status()
    late = {"bytes": len(ROWS), "filename": "late.jsonl", "mime_type": "text/plain", "purpose": "fine-tune"}
    upload_id = answered(stack, "/v1/uploads", json=late)["id"]
    trainer = service.create_lora_training_client("mint/tiny", rank=8, seed=1).result()
    work = Work(
        file=file,
        done_job=done_job,
        done_tuning=done_tuning,
        alias=alias,
        text=text_of(stack, f"{alias}@prod"),
        webhook=hook["webhook"]["webhook_id"],
        secret=hook["secret"],
        upload=upload_id,
        part=answered(stack, f"/v1/uploads/{upload_id}/parts", files={"data": HALVES[0]})["id"],
        trainer=trainer,
        losses=train(trainer),
        checkpoint=trainer.save_state("half").result(timeout=120).path,
        running_job=stack.submit("running", steps=8, **RL),
        running_tuning=tune(stack, file, n_epochs=4),
    )
    receiver.wait_for(lambda received: len(received) > 0)
    for job in (work.running_job, work.running_tuning):
        assert stack.wait_for_step(job, 1)["state"] == "running"
    return work


def finish(stack: RunningStack, work: Work, receiver: Receiver) -> None:
    """Finish what was under way."""
    for job, steps in ((work.running_job, 8), (work.running_tuning, 16)):
        ended = stack.wait_for_end(job)
        assert (ended["state"], len(ended["steps"])) == ("succeeded", steps)
    second = answered(stack, f"/v1/uploads/{work.upload}/parts", files={"data": HALVES[1]})["id"]
    body = {"part_ids": [work.part, second]}
    file = answered(stack, f"/v1/uploads/{work.upload}/complete", json=body)["file"]["id"]
    assert stack.http.get(f"/v1/files/{file}/content").content == ROWS
    assert train(work.trainer)[-1] < work.losses[-1]
    delivered = receiver.wait_for(
        lambda received: len({each.headers["webhook-id"] for each in received[1:]}) > 0
    )
    Webhook(work.secret).verify(delivered[-1].body, dict(delivered[-1].headers))
    while stack.http.get(f"/mint/v1/webhooks/{work.webhook}").json()["failing_since"]:
        time.sleep(0.2)  # what was received is noted a moment later


def read(stack: RunningStack, work: Work) -> dict[str, Any]:
    """Return what the API says of that which no longer changes."""
    policy = f"/mint/v1/policies/{work.alias}"
    tuning = f"/v1/fine_tuning/jobs/ftjob-{work.done_tuning.removeprefix('job_')}"
    paths = (
        f"/mint/v1/jobs/{work.done_job}",
        f"/mint/v1/jobs/{work.done_tuning}",
        tuning,
        f"{tuning}/checkpoints",
        f"/v1/files/{work.file}",
        policy,
        f"{policy}/revisions",
        f"{policy}/aliases/prod",
        f"{policy}/aliases/prod/history",
        f"/mint/v1/webhooks/{work.webhook}",
        "/mint/v1/bases",
        f"/api/v1/training_runs/{work.trainer.model_id}/checkpoints",
    )
    found = {path: stack.http.get(path) for path in paths}
    assert {path: answer.status_code for path, answer in found.items()} == dict.fromkeys(paths, 200)
    assert stack.http.get(f"/v1/files/{work.file}/content").content == ROWS
    return {path: answer.json() for path, answer in found.items()}


def differences(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Return where an answer has not what was wanted; it may have more fields."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        pairs = [(wanted[name], found.get(name), f"{where}.{name}") for name in wanted]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = [
            (mine, theirs, f"{where}[{at}]")
            for at, (mine, theirs) in enumerate(zip(wanted, found, strict=True))
        ]
    else:
        # The version before shows when rollout took a job, which is a moment after its request.
        is_same = wanted == found or (where.endswith(".created_at") and abs(wanted - found) < 5)
        return [] if is_same else [f"{where}: {wanted!r}, {found!r}"]
    return [line for mine, theirs, place in pairs for line in differences(mine, theirs, place)]


def answered(stack: RunningStack, path: str, **sent: Any) -> Any:
    answer = stack.http.post(path, **sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def upload(stack: RunningStack) -> str:
    file: str = answered(
        stack, "/v1/files", files={"file": ("rows.jsonl", ROWS)}, data={"purpose": "fine-tune"}
    )["id"]
    return file


def file_ids(stack: RunningStack) -> Sequence[str]:
    return [file["id"] for file in stack.http.get("/v1/files").json()["data"]]


def tune(stack: RunningStack, file: str, *, n_epochs: int) -> str:
    """Begin a supervised job of four steps an epoch."""
    settings = {"n_epochs": n_epochs, "batch_size": 8}
    method = {"type": "supervised", "supervised": {"hyperparameters": settings}}
    body = {"model": "tiny", "training_file": file, "seed": 3, "metadata": {"team": "a"}, "method": method}
    job: str = answered(stack, "/v1/fine_tuning/jobs", json=body)["mint"]["job_id"]
    return job


def text_of(stack: RunningStack, model: str) -> str:
    body = {"model": model, "prompt": "f ai=", "max_tokens": 8, "temperature": 0}
    text: str = answered(stack, "/v1/completions", json=body)["choices"][0]["text"]
    return text


def train(client: tinker.TrainingClient) -> list[float]:
    """Return the losses of two steps."""
    tokens = [20 + 3 * at for at in range(17)]
    targets = types.TensorData(data=tokens[1:], dtype="int64", shape=[16])
    weights = types.TensorData(data=[1.0] * 16, dtype="float32", shape=[16])
    row = types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": targets, "weights": weights},
    )
    losses = []
    for _ in range(2):
        passed = client.forward_backward([row], "cross_entropy")
        client.optim_step(types.AdamParams(learning_rate=5e-3)).result(timeout=120)
        losses.append(float(passed.result(timeout=120).metrics["loss:sum"]))
    return losses
