"""`mint demo --base tiny`: the main job as a newcomer sees it, and what its report must say."""

import json
from pathlib import Path

import pytest
from e2e.stack import mint

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def test_tiny_demo_learns_serves_and_rolls_back(stack_folder: Path) -> None:
    out = stack_folder / "demo"

    done = mint("demo", "--base", "tiny", "--out", out, seconds=850)

    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert report["accuracy"]["last"] - report["accuracy"]["base"] >= 0.2
    assert all(report["checks"].values()), report["checks"]
    assert report["ratio_max_error"] <= 1e-3
    digests = {revision["number"]: revision["digest"] for revision in report["revisions"]}
    assert sorted(digests) == list(range(1, len(digests) + 1))
    assert len({answer["text"] for answer in report["answers"]}) >= 2
    assert {answer["digest"] for answer in report["answers"]} <= set(digests.values())
    assert (out / "report.md").stat().st_size > 0
    assert (out / "reward.png").read_bytes().startswith(b"\x89PNG")
