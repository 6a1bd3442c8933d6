"""A folder without its marker is not the store: it misses nothing, and takes nothing."""

import shutil
from pathlib import Path

import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.blobs.marker import KEY, LOOK_SECONDS, MarkedBlobs, mark, store_id
from mint_common.claims import Claim
from mint_common.errors import BlobMissing, Unavailable
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.clock import ManualClock

NONE = Claim(uri="a/none", sha256="0" * 64, size_bytes=4)


def opened(folder: Path, clock: ManualClock) -> MarkedBlobs:
    return MarkedBlobs(LocalBlobs(folder), clock.monotonic)


async def reads_of(blobs: MarkedBlobs, claim: Claim, folder: Path):
    yield blobs.get(claim)
    yield blobs.get_range(claim, start=0, size=1)
    yield blobs.fetch(claim, folder / "copy")


async def test_a_missing_blob_is_missing_in_a_marked_store_alone(tmp_path: Path) -> None:
    clock, root = ManualClock(), tmp_path / "blobs"
    blobs = opened(root, clock)
    async for read in reads_of(blobs, NONE, tmp_path):
        with pytest.raises(Unavailable, match="not mounted"):
            await read  # nothing was ever stored here
    claim = await blobs.put("a/b", b"data")
    assert await blobs.get(claim) == b"data"
    async for read in reads_of(blobs, NONE, tmp_path):
        with pytest.raises(Unavailable, match="not mounted"):
            await read  # a process that stores a blob does not make a store of the folder
    await mark(blobs)
    async for read in reads_of(blobs, NONE, tmp_path):
        with pytest.raises(BlobMissing):
            await read
    root.rename(tmp_path / "elsewhere")
    for is_empty_mount_point in (False, True):
        if is_empty_mount_point:
            root.mkdir()
        for process in (blobs, opened(root, clock)):
            async for read in reads_of(process, claim, tmp_path):
                with pytest.raises(Unavailable, match="not mounted"):
                    await read


async def test_a_store_that_has_lost_its_marker_takes_no_blobs(tmp_path: Path) -> None:
    clock, root = ManualClock(), tmp_path / "blobs"
    blobs = opened(root, clock)
    known = await mark(blobs)
    await blobs.put("a/b", b"data")
    await clock.advance(LOOK_SECONDS + 1)
    await blobs.put("a/c", b"data")
    shutil.rmtree(root)
    root.mkdir()
    await clock.advance(LOOK_SECONDS + 1)
    with pytest.raises(Unavailable, match="not mounted"):
        await blobs.put("a/d", b"data")
    assert list(root.iterdir()) == []
    await LocalBlobs(root).put_new(KEY, b"x" * len(known))
    with pytest.raises(Unavailable, match="said"):
        await blobs.put("a/d", b"data")
    (root / KEY).unlink()
    assert await mark(LocalBlobs(root), known) == known
    await blobs.put("a/d", b"data")


async def test_a_store_of_an_older_version_gets_a_marker_and_keeps_it() -> None:
    blobs = MemoryBlobs()
    claim = await blobs.put("a/b", b"data")
    assert await store_id(blobs) is None
    marked = MarkedBlobs(blobs)
    assert await marked.get(claim) == b"data"
    await marked.put_new("a/c", b"data")
    await mark(marked)
    found = await store_id(blobs)
    assert found is not None
    assert await mark(blobs) == found
    assert [key async for key in blobs.list("")] == ["a/b", "a/c", KEY]
