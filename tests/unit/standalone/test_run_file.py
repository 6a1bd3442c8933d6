"""run.json on a disk that is full for a while."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from mint_client.core.room import FULL_BYTES, is_full
from mint_client.core.state import RunNow
from services.standalone.adapters.run_file import LOOK_SECONDS, RunFile
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.lifecycle import PartState, PartStatus
from tests.testing.clock import ManualClock


class Disk(StateFolder):
    """A state folder on a disk that has some room, or none."""

    free = 10 * FULL_BYTES
    run: RunNow | None = None

    def free_bytes(self) -> int:
        return self.free

    def write_run(self, run: RunNow) -> None:
        if not self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.run = run


async def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, clock = Disk(root=tmp_path), ManualClock()
    run_file = RunFile(disk, {"web": 1}, gateway_url="http://gateway")
    keeping = asyncio.create_task(run_file.keep_current(clock))
    run_file({"web": PartStatus(state=PartState.READY, pid=7)})
    disk.free = 0
    run_file({"web": PartStatus(state=PartState.RESTARTING)})
    await clock.advance(LOOK_SECONDS)
    await clock.advance(LOOK_SECONDS)
    assert disk.run is not None
    assert disk.run.parts["web"].state == "ready"
    disk.free = 3 * FULL_BYTES
    await clock.advance(LOOK_SECONDS)
    assert disk.run.parts["web"].state == "restarting"
    keeping.cancel()
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"mint: disk full: 0 bytes free at {tmp_path}; parts start again once there is room",
        f"mint: disk: 201 MB free at {tmp_path} again",
    ]


def test_a_disk_is_full_until_it_has_twice_the_room() -> None:
    assert is_full(FULL_BYTES - 1, was_full=False)
    assert is_full(FULL_BYTES, was_full=True)
    assert not is_full(FULL_BYTES, was_full=False)
    assert not is_full(2 * FULL_BYTES, was_full=True)


def test_no_inode_left_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert StateFolder(root=tmp_path / "missing" / "below").free_bytes() > 0
    found = os.statvfs(tmp_path)
    none_left = os.statvfs_result((*found[:7], 0, *found[8:]))
    monkeypatch.setattr(os, "statvfs", lambda _: none_left)
    assert StateFolder(root=tmp_path).free_bytes() == 0
