"""`mint track --to tensorboard`, killed and started again, against a scripted gateway."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from trackers.recording import Recording, recording
from trackers.scripted_gateway import ScriptedGateway, scripted_gateway

from mint_client.adapters import tensorboard

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


@pytest.mark.slow
def test_a_kill_neither_doubles_nor_loses_a_step(gateway: ScriptedGateway, tmp_path: Path) -> None:
    folder = tmp_path / "runs/counter/job_a"
    gateway.start("job_a")

    def has_loss(run: Recording, step: int) -> None:
        run.wait_for(lambda: ("train/loss", step) in points(folder), f"step {step}")

    with recording(gateway, tmp_path, "--to", "tensorboard", "--at", "runs", "--job", "job_a") as run:
        for step in range(1, 4):
            gateway.step("job_a")
            has_loss(run, step)
        second = Recording(gateway=gateway, folder=tmp_path, options=run.options)
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
