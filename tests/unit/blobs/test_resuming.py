"""Downloads that break go on where they stopped."""

import asyncio
import os
import random
from pathlib import Path

import pytest

from mint_common.blobs.resuming import MAX_PARTIALS, ResumingBlobs
from mint_common.claims import Claim
from mint_common.errors import BlobCorrupt, Unavailable
from tests.testing.blobs_memory import MemoryBlobs

RANGE = 1000
DATA = random.Random(7).randbytes(10 * RANGE + 1)


class BreakingBlobs(MemoryBlobs):
    """A store that answers ``left`` ranges, then breaks; it says which ranges and wholes were asked for."""

    def __init__(self, *, left: int) -> None:
        super().__init__()
        self.left = left
        self.starts: list[int] = []
        self.wholes = 0
        self.largest = 0

    async def get_range(self, claim: Claim, *, start: int, size: int) -> bytes:
        """Break when told so."""
        await asyncio.sleep(0)
        if not self.left:
            raise Unavailable(what="the store", problem="it broke")
        self.left -= 1
        self.starts.append(start)
        self.largest = max(self.largest, size)
        return await super().get_range(claim, start=start, size=size)

    async def fetch(self, claim: Claim, path: Path) -> None:
        """Count."""
        self.wholes += 1
        await super().fetch(claim, path)


def resuming(store: BreakingBlobs, folder: Path) -> ResumingBlobs:
    return ResumingBlobs(store, partials=folder / "partial", range_bytes=RANGE)


async def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = BreakingBlobs(left=4)
    claim = await store.put("key", DATA)
    with pytest.raises(Unavailable):
        await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    store.left = 100
    await resuming(store, tmp_path).fetch(claim, tmp_path / "target")  # also of another process
    assert (tmp_path / "target").read_bytes() == DATA
    assert store.starts == [RANGE * number for number in range(11)]
    assert (store.largest, store.wholes) == (RANGE, 0)
    assert list((tmp_path / "partial").iterdir()) == []


async def test_what_broke_within_a_range_is_kept_too(tmp_path: Path) -> None:
    store = BreakingBlobs(left=100)
    claim = await store.put("key", DATA)
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / claim.sha256).write_bytes(DATA[:2500])
    await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == DATA
    assert store.starts[0] == 2500


@pytest.mark.parametrize("kept", [b"x" * 2500, DATA + b"more", DATA[:-1] + b"x"])
async def test_bytes_that_went_bad_on_the_disk_are_asked_for_again(tmp_path: Path, kept: bytes) -> None:
    store = BreakingBlobs(left=100)
    claim = await store.put("key", DATA)
    (tmp_path / "partial").mkdir()
    (tmp_path / "partial" / claim.sha256).write_bytes(kept)
    await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == DATA


async def test_a_corrupt_blob_is_corrupt_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    store = BreakingBlobs(left=3)
    claim = await store.put("key", DATA)
    await store.put("key", DATA[:-1] + b"x")
    with pytest.raises(Unavailable):
        await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    store.left = 100
    with pytest.raises(BlobCorrupt):
        await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert list((tmp_path / "partial").iterdir()) == []


async def test_of_downloads_at_once_one_writes_the_partial_file(tmp_path: Path) -> None:
    store = BreakingBlobs(left=100)
    claim = await store.put("key", DATA)
    blobs = resuming(store, tmp_path)
    await asyncio.gather(*(blobs.fetch(claim, tmp_path / f"target{number}") for number in range(8)))
    assert all((tmp_path / f"target{number}").read_bytes() == DATA for number in range(8))
    assert list((tmp_path / "partial").iterdir()) == []


async def test_few_broken_downloads_are_kept(tmp_path: Path) -> None:
    store = BreakingBlobs(left=100)
    claim = await store.put("key", DATA)
    (tmp_path / "partial").mkdir()
    for number in range(30):
        old = tmp_path / "partial" / f"{number:064x}"
        old.write_bytes(b"old")
        os.utime(old, (number, number))
    await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    left = sorted(int(path.name, 16) for path in (tmp_path / "partial").iterdir())
    assert left == list(range(30 - MAX_PARTIALS + 1, 30))


async def test_a_small_blob_is_fetched_at_once(tmp_path: Path) -> None:
    store = BreakingBlobs(left=0)
    claim = await store.put("key", DATA[:RANGE])
    await resuming(store, tmp_path).fetch(claim, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == DATA[:RANGE]
    assert store.wholes == 1
