"""Sides of a probe that hang, and a caller that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.standalone.adapters.probing import running

HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + "/pids", "a").write(f"{child.pid}\\n")
time.sleep(600)
"""

CALLER = """
import os, pathlib, sys
from services.standalone.adapters.probing.running import _both_sides
os.environ["PYTHONPATH"] = sys.argv[1]
_both_sides(pathlib.Path(sys.argv[1]))
"""
"""Sets the path of its children alone: it imports the product."""


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A package whose sides start a child and hang."""
    for service in ("trainer", "loader"):
        package = tmp_path / "services" / service / "adapters" / "probing"
        package.mkdir(parents=True)
        (package / "__main__.py").write_text(HANGS)
        for folder in (package, *package.parents[:3]):
            (folder / "__init__.py").touch()
    return tmp_path


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def children(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().splitlines()]


def test_sides_that_hang_end_in_time_with_their_children(
    hanging: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(hanging))
    monkeypatch.setattr(running, "MAX_SECONDS", 1.0)
    trainer, engine, compared = running._both_sides(hanging)
    assert trainer.problem
    assert engine.problem
    assert compared is None
    assert len(children(hanging)) == 2
    assert all(map(is_gone, children(hanging)))


def test_a_killed_caller_leaves_no_side(hanging: Path) -> None:
    caller = subprocess.Popen([sys.executable, "-c", CALLER, str(hanging)])
    deadline = time.monotonic() + 60
    while not (hanging / "pids").exists() or len(children(hanging)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    sides = [psutil.Process(pid).ppid() for pid in children(hanging)]
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    while not all(map(is_gone, sides)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for pid in children(hanging):
        os.kill(pid, signal.SIGKILL)
