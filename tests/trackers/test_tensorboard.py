"""`mint track --to tensorboard` against a scripted gateway."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from trackers.recording import Recording, recording
from trackers.scripted_gateway import KEY, ScriptedGateway, scripted_gateway

from mint_client.adapters import tensorboard
from mint_client.adapters.public_api import PublicApi
from mint_client.adapters.subscriber import Subscriber, read_backlog
from mint_client.adapters.trackers.tensorboard import TensorBoardTracker
from mint_client.core.track_backlog import TrackBacklog, TrackScope
from mint_common.errors import Unauthorized

pytest.importorskip("tensorboardX")


@pytest.fixture
def gateway() -> Iterator[ScriptedGateway]:
    with scripted_gateway() as served:
        yield served


def points(folder: Path) -> Counter[tuple[str, int]]:
    """Return how often each scalar is in the event files of a job."""
    return Counter(
        (value.tag, event.step)
        for file in folder.glob("events.out.tfevents.*")
        for event in tensorboard._events(file)  # the same records, counted
        for value in event.summary.value
    )


@dataclass(slots=True, kw_only=True)
class Subscribed:
    """A subscriber in a thread, with what it said; it ends with the job of its scope."""

    gateway: ScriptedGateway
    folder: Path
    job_id: str = ""
    key: str = KEY
    said: list[str] = field(default_factory=list)
    error: Exception | None = None

    def run(self) -> None:
        scope, file = TrackScope(policy_id="pol_a", job_id=self.job_id), self.folder / "place.json"
        with PublicApi(self.gateway.url, self.key) as api:
            tracker = TensorBoardTracker(self.folder / "runs")
            backlog = read_backlog(file) or TrackBacklog()
            try:
                Subscriber(api, tracker, file, scope, backlog=backlog, say=self.said.append).run()
            except Unauthorized as error:
                self.error = error

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, daemon=True)
        thread.start()
        return thread

    def has(self, job_id: str, step: int) -> None:
        self.wait_for(lambda: ("train/loss", step) in points(self.folder / "runs/counter" / job_id))

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not is_there():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)


@pytest.mark.slow
def test_a_kill_neither_doubles_nor_loses_a_step(gateway: ScriptedGateway, tmp_path: Path) -> None:
    folder = tmp_path / "runs/counter/job_a"
    gateway.start("job_a")

    def has_loss(run: Recording, step: int) -> None:
        run.wait_for(lambda: ("train/loss", step) in points(folder), f"step {step}")

    with recording(
        gateway.url, KEY, tmp_path, "--to", "tensorboard", "--at", "runs", "--job", "job_a"
    ) as run:
        for step in range(1, 4):
            gateway.step("job_a")
            has_loss(run, step)
        second = Recording(url=run.url, key=run.key, folder=tmp_path, options=run.options)
        second.start()
        assert second.ends() == 1
        assert f"Another `mint track` (pid {run.process.pid if run.process else 0})" in run.said
        run.kill()
        gateway.step("job_a")
        gateway.step("job_a", valid_loss=0.5)
        gateway.score(2, "exam", "accuracy", 0.75)
        # The last record of a killed writer may be torn.
        (file,) = folder.glob("events.out.tfevents.*")
        file.write_bytes(file.read_bytes()[:-7])
        run.start()
        has_loss(run, 5)
        gateway.end("job_a")
        assert run.ends() == 0, run.said
    found = points(folder)
    assert set(found.values()) == {1}, found
    assert {step for name, step in found if name == "train/loss"} == {1, 2, 3, 4, 5}
    assert {("eval/loss", 5), ("eval/exam/accuracy", 2), ("job/text_summary", 0)} <= found.keys()


def test_a_job_that_is_refused_does_not_stop_the_others(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.start("job_a", spec={"data": 3})
    gateway.start("job_b")
    gateway.step("job_a")
    gateway.step("job_b")
    subscribed = Subscribed(gateway=gateway, folder=tmp_path)
    subscribed.start()
    subscribed.has("job_b", 1)
    subscribed.wait_for(lambda: any(said.startswith("job_a: ") for said in subscribed.said))
    gateway.step("job_b")
    subscribed.has("job_b", 2)


def test_an_away_folder_is_waited_for(gateway: ScriptedGateway, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file, and no folder")
    gateway.start("job_a")
    gateway.step("job_a")
    subscribed = Subscribed(gateway=gateway, folder=tmp_path, job_id="job_a")
    thread = subscribed.start()
    subscribed.wait_for(lambda: any("does not answer" in said for said in subscribed.said))
    backlog = read_backlog(tmp_path / "place.json")
    assert backlog is not None
    assert len(backlog.problems) == 1
    (tmp_path / "runs").unlink()
    subscribed.has("job_a", 1)
    gateway.end("job_a")
    thread.join(60)
    assert "all is recorded again" in subscribed.said
    assert set(points(tmp_path / "runs/counter/job_a").values()) == {1}


def test_events_that_expired_lose_no_job(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.start("job_a")
    gateway.step("job_a")
    gateway.end("job_a")
    (tmp_path / "place.json").write_text('{"since": 1.0, "place": "0", "waiting": []}')
    gateway.kept_from = len(gateway.log)
    subscribed = Subscribed(gateway=gateway, folder=tmp_path)
    subscribed.start()
    subscribed.has("job_a", 1)


def test_a_wrong_key_ends_it(gateway: ScriptedGateway, tmp_path: Path) -> None:
    subscribed = Subscribed(gateway=gateway, folder=tmp_path, key="wrong")
    subscribed.start().join(60)
    assert "The API key is refused." in str(subscribed.error)
