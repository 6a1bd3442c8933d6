"""Folders of processes that start and are killed together."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mint_common.runtime.held_folder import HeldFolder, hold_folder


def test_what_a_killed_process_left_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    held, left = hold_folder("rows-", tmp_path), hold_folder("rows-", tmp_path)
    os.close(left._lock)  # what the end of its process does
    third = hold_folder("rows-", tmp_path)
    assert set(tmp_path.iterdir()) == {held.path, third.path}
    held.remove()
    third.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_process_removes_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def glob(folder: Path, pattern: str) -> Iterator[Path]:
        yield folder / "rows-gone"

    monkeypatch.setattr(Path, "glob", glob)
    hold_folder("rows-", tmp_path).remove()


def test_processes_that_start_together_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one starts when the first has made its folder and not locked it yet."""
    flock, others = fcntl.flock, list[HeldFolder]()

    def start_another(lock: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not others:
            monkeypatch.setattr(fcntl, "flock", flock)
            others.append(hold_folder("rows-", tmp_path))
        flock(lock, operation)

    monkeypatch.setattr(fcntl, "flock", start_another)
    held = [hold_folder("rows-", tmp_path), *others]
    assert set(tmp_path.iterdir()) == {each.path for each in held}
    assert len(held) == 2
    for each in held:
        each.remove()
