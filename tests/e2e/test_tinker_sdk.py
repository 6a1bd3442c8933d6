"""The newest SDK drives the whole stack through its whole API, and the quick start runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e.stack import RunningStack
from sdk.matrix import ROOT, drive, problems

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.mark.slow
def test_the_newest_sdk_works(stack: RunningStack, tmp_path: Path):
    url = f"http://127.0.0.1:{stack.port}"
    matrix = {"0.38.0": drive("0.38.0", url, stack.api_key, tmp_path, python=Path(sys.executable))}
    assert not problems(matrix), "\n".join(problems(matrix))


def test_the_quick_start_learns_and_samples(stack: RunningStack):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples/quickstart.py")],
        env={
            **os.environ,
            "TINKER_BASE_URL": f"http://127.0.0.1:{stack.port}",
            "TINKER_API_KEY": stack.api_key,
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [float(line.rpartition(" ")[2]) for line in done.stdout.splitlines() if "loss" in line]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]
    assert "asked 'the quick brow', sampled 'n fox jumps over the lazy dog'" in done.stdout
    assert "tinker://" in done.stdout
