"""The demo with an engine on vLLM's second model runner, CUDA's default, by Triton's interpreter."""

import json
from pathlib import Path

import pytest
from e2e.stack import mint

from tests.testing.second_runner import second_runner_environment

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_the_tiny_demo_trains_serves_and_rolls_back(stack_folder: Path) -> None:
    out = stack_folder / "demo"
    done = mint(
        "demo", "--base", "tiny", "--steps", 20, "--out", out, seconds=3500, env=second_runner_environment()
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert all(report["checks"].values()), report["checks"]
    assert report["ratio_max_error"] <= 1e-3
