"""The lock file of a Postgres server that was killed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.standalone.adapters.postgres import _forget_dead_server, _is_zombie


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """The place of a lock file."""
    return tmp_path / "postmaster.pid"


def test_the_lock_of_a_zombie_is_forgotten(lock: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        while not _is_zombie(dead.pid):
            pass
        lock.write_text(f"{dead.pid}\n{lock.parent}\n")
        _forget_dead_server(lock.parent)
    assert not lock.exists()


def test_the_lock_stays_while_the_server_lives(lock: Path) -> None:
    lock.write_text(f"{os.getpid()}\n{lock.parent}\n")
    _forget_dead_server(lock.parent)
    assert lock.exists()


def test_the_lock_goes_only_when_no_process_of_the_server_is_left(lock: Path) -> None:
    script = "import time; time.sleep(0.5)"
    with (
        subprocess.Popen([sys.executable, "-c", ""]) as dead,
        subprocess.Popen([sys.executable, "-c", script], cwd=lock.parent) as backend,
    ):
        while not _is_zombie(dead.pid):
            pass
        lock.write_text(f"{dead.pid}\n{lock.parent}\n")
        _forget_dead_server(lock.parent)
        assert not lock.exists()
        assert _is_zombie(backend.pid)


@pytest.mark.parametrize("text", ["", "-12\n"])
def test_a_lock_without_the_number_of_a_server_is_left_to_postgres(lock: Path, text: str) -> None:
    """It is negative where a killed initdb left it."""
    lock.write_text(text)
    _forget_dead_server(lock.parent)
    _forget_dead_server(lock.parent / "none")
    assert lock.exists()
