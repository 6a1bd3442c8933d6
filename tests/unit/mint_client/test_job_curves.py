"""What a job measured, as other programs read it."""

import csv
from pathlib import Path

import pytest

from mint_client.adapters.tensorboard import write_tensorboard
from mint_client.core.job_curves import curves_csv, scalars_of
from mint_client.core.refusals import ExtraMissingError

STEPS = [
    {
        "step": 1,
        "state": "published",
        "loss": 2.5,
        "revision": {"number": 4, "digest": "sha256:a"},
        "sampled_number": 3,
        "published_at": 100.0,
        "grader_errors": {},
    },
    {
        "step": 2,
        "state": "completed",
        "loss": None,
        "revision": None,
        "valid_loss": 1.5,
        "grader_errors": {"other_error": 2},
    },
]


def test_a_csv_has_a_line_a_step_and_every_number() -> None:
    first, second = csv.DictReader(curves_csv(STEPS).splitlines())
    assert list(first)[:3] == ["revision", "step", "loss"]
    assert (first["revision"], first["step"], first["loss"], first["valid_loss"]) == ("4", "1", "2.5", "")
    assert (second["revision"], second["grader_errors_other_error"]) == ("", "2")
    assert curves_csv([]) == "revision\n"


def test_scalars_have_the_names_that_trackers_know() -> None:
    assert {(each.name, each.step, each.value, each.at) for each in scalars_of(STEPS)} == {
        ("train/loss", 1, 2.5, 100.0),
        ("eval/loss", 2, 1.5, None),
        ("train/grader_errors_other_error", 2, 2, None),
    }


def test_an_event_file_has_the_scalars(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    assert write_tensorboard(tmp_path, scalars_of(STEPS), {"algorithm": "sft"}) == 3
    (file,) = tmp_path.glob("events.out.tfevents.*")
    data = file.read_bytes()
    assert all(name in data for name in (b"train/loss", b"eval/loss", b'"algorithm": "sft"'))


def test_without_tensorboardx_the_refusal_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    with pytest.raises(ExtraMissingError, match="pip install tensorboardX"):
        write_tensorboard(tmp_path, [], {})
