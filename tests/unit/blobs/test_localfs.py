"""Local blobs on a real file system: links, leftovers, crashes."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mint_common.blobs import localfs
from mint_common.blobs.checked import claim_of
from mint_common.blobs.localfs import LocalBlobs
from mint_common.errors import BlobCorrupt, BlobMissing, InvalidField, Unavailable


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_bytes(b"private")
    return folder


async def test_a_linked_folder_is_not_entered(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    blobs = LocalBlobs(root)
    with pytest.raises(BlobMissing):
        await blobs.get(claim_of("link/file", b"private"))
    with pytest.raises(InvalidField):
        await blobs.put("link/new", b"x")
    with pytest.raises(InvalidField):
        await blobs.put_new("link/new", b"x")
    await blobs.delete("link/file")
    assert [key async for key in blobs.list("")] == []
    assert [key async for key in blobs.list("link/")] == []
    assert [path.name for path in outside.iterdir()] == ["file"]


async def test_a_linked_file_is_not_followed(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside / "file")
    blobs = LocalBlobs(root)
    with pytest.raises(BlobMissing):
        await blobs.get(claim_of("link", b"private"))
    await blobs.put("link", b"mine")
    assert (outside / "file").read_bytes() == b"private"
    assert await blobs.get(claim_of("link", b"mine")) == b"mine"


async def test_the_root_itself_may_be_a_link(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "root").symlink_to(outside)
    blobs = LocalBlobs(tmp_path / "root")
    claim = await blobs.put("key", b"x")
    assert await blobs.get(claim) == b"x"


async def test_a_key_cannot_be_a_folder_of_another(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    await blobs.put("a/b", b"1")
    for put in (blobs.put, blobs.put_new):
        with pytest.raises(InvalidField):
            await put("a/b/c", b"2")
    with pytest.raises(InvalidField):
        await blobs.put("a", b"2")


async def test_bytes_changed_on_disk_are_corrupt(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    claim = await blobs.put("key", b"12345")
    (tmp_path / "key").write_bytes(b"12x45")
    with pytest.raises(BlobCorrupt, match="sha256"):
        await blobs.get(claim)


async def test_a_leftover_of_a_crash_is_no_blob(tmp_path: Path) -> None:
    blobs = LocalBlobs(tmp_path)
    await blobs.put("a/key", b"x")
    (tmp_path / "a" / "~0123456789abcdef").write_bytes(b"half")
    assert [key async for key in blobs.list("")] == ["a/key"]


@pytest.mark.parametrize("name", ["put", "put_new"])
async def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    blobs = LocalBlobs(tmp_path)
    await blobs.put("other", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(localfs.os, "fsync", full)
        with pytest.raises(Unavailable, match="No space left"):
            await getattr(blobs, name)("key", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


async def test_a_root_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((Unavailable, InvalidField)):
        await LocalBlobs(tmp_path / "file" / "root").put("key", b"x")


WRITER = """
import asyncio, sys
from pathlib import Path
from mint_common.blobs.localfs import LocalBlobs

async def main():
    blobs = LocalBlobs(Path(sys.argv[1]))
    for number in range(100_000):
        await blobs.put("key", bytes([number % 256]) * 300_000)
        await blobs.put_new(f"new/{number}", bytes([number % 256]) * 300_000)
        print(number, flush=True)

asyncio.run(main())
"""


async def test_kill_in_the_middle_of_writing_leaves_whole_blobs(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split()] or [19]
    process.wait()
    process.stdout.close()
    blobs = LocalBlobs(tmp_path)
    keys = {key async for key in blobs.list("")}
    assert {f"new/{number}" for number in range(told[-1] + 1)} <= keys
    for key in keys:
        data = (tmp_path / key).read_bytes()
        assert data == data[:1] * 300_000
