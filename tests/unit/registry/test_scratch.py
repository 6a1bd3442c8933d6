"""Temporary folders: a full disk is an outage with a sentence, and what a killed registry left goes."""

import subprocess
import sys
from pathlib import Path

import pytest

from mint_common.errors import Unavailable
from mint_common.runtime.held_folder import hold_folder
from services.registry.handlers.scratch import PREFIX, Scratch

KILLED = """
import os, sys
from pathlib import Path
from mint_common.runtime.held_folder import hold_folder
folder = hold_folder(sys.argv[1], Path(sys.argv[2]))
(folder.path / "upload-x").mkdir()
(folder.path / "upload-x" / "weights").write_bytes(b"0" * 1000)
os.kill(os.getpid(), 9)
"""


async def test_a_full_disk_is_unavailable_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="disk for temporary files is full"):
        await write_below(tmp_path, Path("/dev/full"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(IsADirectoryError):
        await write_below(tmp_path, tmp_path)


async def write_below(root: Path, path: Path) -> None:
    async with Scratch(root).folder("upload-") as folder:
        (folder / "begun").write_bytes(b"some")
        with path.open("wb", buffering=0) as file:
            file.write(b"one byte")


def test_what_a_killed_registry_left_is_removed_by_the_next(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, PREFIX, tmp_path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    held = hold_folder(PREFIX, tmp_path)
    assert list(tmp_path.iterdir()) == [held.path]
    held.remove()
