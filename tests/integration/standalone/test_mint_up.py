"""`mint up` with a real engine: what it tells, and that nothing of it survives a kill -9."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from services.standalone.adapters.launch import free_port
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.state import RunNow

pytestmark = [pytest.mark.integration, pytest.mark.engine, pytest.mark.timeout(400)]

MINT = str(Path(sys.executable).with_name("mint"))
START_SECONDS = 300.0


class Up:
    """A `mint up` process on a state folder."""

    def __init__(self, root: Path, *what: str) -> None:
        """``what`` says what to start: the base tiny unless given."""
        self.folder = StateFolder(root=root)
        self.port = free_port()
        root.mkdir(parents=True, exist_ok=True)
        with (root / "up.out").open("wb") as out:
            what = what or ("--base", "tiny")
            command = [MINT, "up", *what, "--dir", str(root), "--port", str(self.port)]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)

    def says(self) -> str:
        """Return its output so far."""
        return (self.folder.root / "up.out").read_text()

    def run(self) -> RunNow | None:
        """Return what it says about its parts."""
        return self.folder.read_run()

    def wait_until_up(self) -> None:
        """Wait for the line that says so."""
        deadline = time.monotonic() + START_SECONDS
        while "MinT is up" not in self.says():
            assert self.process.poll() is None, self.says()
            assert time.monotonic() < deadline, self.says()
            time.sleep(0.1)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A ready stack."""
    with running(tmp_path / "state") as started:
        yield started


@contextmanager
def running(root: Path, *what: str) -> Iterator[Up]:
    """Start a stack and yield it when it is ready; as `Up`."""
    started = Up(root, *what)
    try:
        started.wait_until_up()
        yield started
    finally:
        started.process.terminate()
        started.process.wait(60)


def mint(*arguments: str, seconds: float = 120) -> "subprocess.CompletedProcess[str]":
    """Run a command."""
    return subprocess.run([MINT, *arguments], capture_output=True, text=True, check=False, timeout=seconds)


def alive(process: psutil.Process) -> bool:
    """Say whether a process still runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_stack_answers_refuses_a_second_one_and_leaves_nothing_after_kill_9(up: Up) -> None:
    root = str(up.folder.root)
    key = up.folder.api_key_file.read_text().strip()
    url = f"http://127.0.0.1:{up.port}/v1/models"
    models = httpx.get(url, headers={"authorization": f"Bearer {key}"}, trust_env=False).json()
    assert [model["id"] for model in models["data"]] == ["tiny"]
    assert httpx.get(url, trust_env=False).status_code == 401

    status = mint("status", "--dir", root)
    assert status.returncode == 0
    assert "loader-tiny" in status.stdout
    second = mint("up", "--dir", root)
    assert second.returncode == 1
    assert f"already (pid {up.process.pid})" in second.stderr
    busy = mint("up", "--dir", f"{root}-other", "--base", "tiny", "--port", str(up.port))
    assert busy.returncode == 1
    assert f"Port {up.port} is taken by" in busy.stderr

    listening = [
        connection.laddr.ip
        for process in psutil.Process(up.process.pid).children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= len({"postgres", "nats", "registry", "trainer", "loader", "rollout", "gateway"})
    assert set(listening) == {"127.0.0.1"}

    family = psutil.Process(up.process.pid).children(recursive=True)
    assert any("EngineCore" in process.name() for process in family)
    up.process.kill()
    up.process.wait()
    deadline = time.monotonic() + 10
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [process for process in family if alive(process)] == []


def test_down_stops_every_process_and_status_says_so(up: Up) -> None:
    family = psutil.Process(up.process.pid).children(recursive=True)
    down = mint("down", "--dir", str(up.folder.root))
    assert down.returncode == 0, down.stderr
    assert up.process.wait(10) == 0
    assert [process for process in family if alive(process)] == []
    status = mint("status", "--dir", str(up.folder.root))
    assert status.returncode == 1
    assert "No stack runs on" in status.stderr
