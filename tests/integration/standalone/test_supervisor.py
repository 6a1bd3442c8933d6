"""The supervisor on real processes: order, restart, no orphans, one stack per folder."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from e2e.stack import mint

from mint_client.core.state import RunNow
from services.standalone.adapters.state_folder import StateFolder

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).with_name("trivial.py")
PARTS = {"postgres", "nats", "web", "nest"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A supervisor process and its state folder."""

    process: "subprocess.Popen[str]"
    folder: StateFolder

    def now(self) -> RunNow:
        """Return what it says about its parts."""
        run = self.folder.read_run()
        assert run is not None
        return run

    def pid(self, part: str) -> int:
        """Return a part's process id."""
        pid = self.now().parts[part].pid
        assert pid is not None
        return pid


def start(root: Path, *, said: Path = Path(os.devnull)) -> Running:
    """Start a supervisor and wait until all its parts are ready; its stderr goes to ``said``."""
    with said.open("w") as stderr:
        command = [sys.executable, PROGRAM, root]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return Running(process=process, folder=StateFolder(root=root))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A ready stack, below a folder that `nobody` cannot enter."""
    tmp_path.chmod(0o700)
    started = start(tmp_path / "state")
    yield started
    assert started.process.stdout is not None
    started.process.terminate()
    started.process.wait(30)
    started.process.stdout.close()


def family(running: Running) -> list[psutil.Process]:
    """Return every process that the supervisor started, directly or not."""
    return psutil.Process(running.process.pid).children(recursive=True)


def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> float:
    """Poll a condition of real processes; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come true in time"
        time.sleep(0.01)
    return time.monotonic() - began


def alive(process: psutil.Process) -> bool:
    """Say whether a process still runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_parts_are_ready_in_order_and_a_killed_one_is_started_again(running: Running) -> None:
    assert {name for name, part in running.now().parts.items() if part.state == "ready"} == PARTS
    for part in sorted(PARTS):
        old = running.pid(part)
        os.kill(old, signal.SIGKILL)
        until(lambda old=old, part=part: running.now().parts[part].pid not in {old, None})
        until(lambda part=part: running.now().parts[part].state == "ready")
        assert running.now().parts[part].restarts == 1
    others = {name: part.restarts for name, part in running.now().parts.items()}
    assert others == dict.fromkeys(PARTS, 1)


def test_what_a_killed_part_had_started_is_ended_before_it_starts_again(running: Running) -> None:
    child = psutil.Process(int((running.folder.root / "nested.pid").read_text()))
    os.kill(running.pid("nest"), signal.SIGKILL)
    until(lambda: running.now().parts["nest"].restarts == 1)
    assert not alive(child)


def test_killing_the_supervisor_leaves_no_process_and_frees_the_folder(running: Running) -> None:
    processes = family(running)
    assert len(processes) > len(PARTS)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(map(alive, processes)))
    again = start(running.folder.root)
    again.process.terminate()
    assert again.process.wait(30) == 0
    assert again.process.stdout is not None
    again.process.stdout.close()


def test_a_part_that_hangs_is_started_again(running: Running) -> None:
    hung = running.pid("web")
    os.kill(hung, signal.SIGSTOP)
    until(lambda: running.now().parts["web"].restarts == 1 and running.now().parts["web"].state == "ready")
    assert not psutil.pid_exists(hung)
    assert running.now().parts["nest"].restarts == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system here: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(file: Path) -> None:
    """Leave no byte of the file's disk free."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as written:
        for size in (2**20, 1):
            with contextlib.suppress(OSError):
                while written.write(bytes(size)):
                    continue


def test_a_full_disk_ends_no_supervisor_and_parts_come_back_with_the_room(
    small_disk: Path, tmp_path: Path
) -> None:
    running = start(small_disk / "state", said=(said := tmp_path / "said"))
    fill(small_disk / "full")
    killed = {part: running.pid(part) for part in ("postgres", "web")}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(map(psutil.pid_exists, killed.values())))
    until(lambda: "disk full" in said.read_text())
    assert running.process.poll() is None, said.read_text()
    status = mint("status", "--dir", str(running.folder.root))
    assert "disk full" in status.stdout
    (small_disk / "full").unlink()
    until(lambda: running.now().parts["postgres"].restarts > 0)
    until(lambda: {part.state for part in running.now().parts.values()} == {"ready"})
    until(lambda: "again" in said.read_text())
    running.process.terminate()
    assert running.process.wait(30) == 0
    assert [line.split(":")[:2] for line in said.read_text().splitlines()] == [
        ["mint", " disk full"],
        ["mint", " disk"],
    ]
    assert running.process.stdout is not None
    running.process.stdout.close()


def test_up_refuses_a_disk_that_doctor_would_fail(small_disk: Path) -> None:
    up = mint("up", "--dir", str(small_disk / "state"))
    assert up.returncode == 1
    assert "GiB free" in up.stderr
    assert "another --dir" in up.stderr
    assert len(up.stderr.splitlines()) == 1, up.stderr


def test_killing_the_sentinel_costs_nothing(running: Running) -> None:
    known = {part.pid for part in running.now().parts.values()}
    sentinel = next(
        child for child in psutil.Process(running.process.pid).children() if child.pid not in known
    )
    sentinel.kill()
    os.kill(running.pid("web"), signal.SIGKILL)
    until(lambda: running.now().parts["web"].restarts == 1 and running.now().parts["web"].state == "ready")
    processes = family(running)
    running.process.kill()
    running.process.wait()
    until(lambda: not any(map(alive, processes)))


def test_a_second_supervisor_on_the_folder_refuses_with_the_pid_of_the_first(running: Running) -> None:
    second = subprocess.run(
        [sys.executable, PROGRAM, running.folder.root],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert second.returncode != 0
    assert f"runs on {running.folder.root} already (pid {running.process.pid})" in second.stderr
    assert {part.state for part in running.now().parts.values()} == {"ready"}


def test_down_ends_dependents_first_and_postgres_cleanly(running: Running) -> None:
    processes = family(running)
    down = mint("down", "--dir", str(running.folder.root))
    assert down.returncode == 0, down.stderr
    assert running.process.wait(30) == 0
    assert not any(map(alive, processes))
    logs = running.folder.logs
    ended = {name: (logs / f"{name}.log").stat().st_mtime_ns for name in PARTS}
    assert ended["nest"] <= ended["web"] <= min(ended["postgres"], ended["nats"])
    assert "ends" in (logs / "nest.log").read_text()
    assert re.search("database system is shut down", (logs / "postgres.log").read_text())
    assert running.folder.running_pid() is None


def test_a_part_that_never_becomes_ready_ends_the_stack_with_its_log_tail(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from pathlib import Path\n"
        "from services.standalone.adapters.launch import Launch\n"
        "from services.standalone.adapters.state_folder import StateFolder\n"
        "from services.standalone.app import Blueprint, run_blueprint\n"
        "from services.standalone.core.parts import StackPart\n"
        "async def main():\n"
        "    folder = StateFolder(root=Path(sys.argv[1]))\n"
        "    bad = Launch(name='bad', argv=(sys.executable, '-c', 'raise SystemExit(\"no such base\")'),\n"
        "                 ready_url='http://127.0.0.1:1/', folder=folder.root)\n"
        "    plan = Blueprint(parts=(StackPart(name='bad'),), launches={'bad': bad}, ports={'gateway': 1})\n"
        "    with folder.taken() as lock:\n"
        "        async with run_blueprint(plan, folder, lock=lock, environment={}) as stack:\n"
        "            await stack.all_ready()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "bad: it did not become ready in 4 attempts" in done.stderr
    assert "no such base" in done.stderr
