"""Rows read from local copies: the right bytes, one copy for all, bounded memory and disk."""

import asyncio
import errno
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mint_common.claims import Claim
from mint_common.datasets.lines import LineReader
from mint_common.datasets.repeats import row_digest
from mint_common.errors import BlobMissing, Unavailable
from services.rollout.adapters import local_rows
from services.rollout.adapters.local_rows import LocalRows
from tests.testing.blobs_memory import MemoryBlobs

LIMIT = 1 << 20
lines = st.lists(
    st.sampled_from([b'{"text": "a"}', b'{"text":"b"} ', b"{}", b"", b"  ", b"\t", '{"text": "é"}'.encode()]),
    max_size=12,
)


class CountingBlobs(MemoryBlobs):
    """Blobs that count how often each is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    async def fetch(self, claim: Claim, path: Path) -> None:
        self.fetched.append(claim.uri)
        await super().fetch(claim, path)


@given(rows=lines, end=st.sampled_from([b"\n", b"\r\n"]), bom=st.booleans(), is_ended=st.booleans())
def test_rows_are_the_lines_that_the_check_of_a_file_reads(
    rows: list[bytes], end: bytes, bom: bool, is_ended: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = (b"\xef\xbb\xbf" if bom else b"") + end.join(rows) + (end if is_ended else b"")
    reader = LineReader()
    expected = [
        (number, line)
        for number, line in [*reader.feed(data), *reader.finish()]
        if isinstance(line, bytes) and line.strip()
    ]

    async def read() -> tuple[list[tuple[int, bytes]], int]:
        blobs = MemoryBlobs()
        files = LocalRows(blobs, tmp_path_factory.mktemp("rows"), limit_bytes=LIMIT)
        content = await blobs.put("files/a", data)
        count = await files.count(content)
        found = await files.lines(content, np.arange(count)[::-1]) if count else []
        size_bytes = await files.size_bytes(content, np.arange(count)) if count else 0
        return [(row.line, row.data) for row in reversed(found)], size_bytes

    assert asyncio.run(read()) == (expected, sum(len(line) for _, line in expected))


async def test_keys_tell_equal_rows(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    content = await blobs.put("files/a", b'{"a": 1, "b": 2}\n\n{"b":2,"a":1}\n{"a": 2}\n')
    keys = await files.keys(content)
    assert (keys[0] == keys[1], keys[0] == keys[2]) == (True, False)
    assert keys[2] == int.from_bytes(row_digest({"a": 2})[:8], "little")
    assert (await files.keys(content)).tolist() == keys.tolist()


async def test_jobs_on_the_same_content_share_a_copy(tmp_path: Path) -> None:
    blobs = CountingBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    content = await blobs.put("files/a", b"{}\n" * 50)
    counts = await asyncio.gather(*(files.count(content) for _ in range(5)))
    assert (counts, blobs.fetched) == ([50] * 5, ["files/a"])


async def test_the_longest_unused_copy_goes_first_and_is_made_again(tmp_path: Path) -> None:
    blobs = CountingBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=700)
    claims = [await blobs.put(f"files/{name}", b'{"n": %d}\n' % name * 10) for name in range(3)]
    for name in (0, 1, 0, 2):
        assert await files.count(claims[name]) == 10
    assert len(list(tmp_path.iterdir())) == 4  # two files of 90 bytes, each with 240 of its index and keys
    await files.count(claims[0])
    assert blobs.fetched == ["files/0", "files/1", "files/2"]
    (row,) = await files.lines(claims[1], np.array([3]))
    assert (row.line, row.data, blobs.fetched[-1]) == (4, b'{"n": 1}', "files/1")


async def test_a_copy_that_nobody_reads_goes_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    first, second = [await blobs.put(f"files/{name}", b"{}\n" * name) for name in (1, 2)]
    await files.count(first)
    monkeypatch.setattr(local_rows, "IDLE_SECONDS", -1.0)
    await files.count(second)
    assert len(list(tmp_path.iterdir())) == 2
    await files.remove_unused()
    assert list(tmp_path.iterdir()) == []


async def test_removals_that_overlap_leave_what_is_opened_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    claims = [await blobs.put(f"files/{name}", b"{}\n" * name) for name in range(1, 9)]
    for content in claims:
        await files.count(content)
    monkeypatch.setattr(local_rows, "IDLE_SECONDS", -1.0)
    reading = [files.lines(content, np.array([0])) for content in reversed(claims)]
    *_, first, last = await asyncio.gather(*(files.remove_unused() for _ in range(3)), *reading)
    assert [row.data for row in (*first, *last)] == [b"{}", b"{}"]
    await files.remove_unused()
    assert list(tmp_path.iterdir()) == []


async def test_a_reader_that_is_cancelled_leaves_a_whole_copy_to_the_next(tmp_path: Path) -> None:
    blobs = CountingBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    content = await blobs.put("files/a", b"{}\n" * 20_000)
    for pauses in range(6):
        reading = asyncio.create_task(files.count(content))
        for _ in range(pauses):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert await files.count(content) == 20_000


async def test_content_that_is_gone_is_told(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    content = await blobs.put("files/a", b"{}\n")
    await blobs.delete("files/a")
    with pytest.raises(BlobMissing):
        await files.count(content)


async def test_a_full_disk_is_an_outage(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    content = await blobs.put("files/a", b"{}\n")
    await files.count(content)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(Unavailable, match="the folder for rows"):
        await files.lines(content, np.array([0]))


@pytest.mark.parametrize("step", ["fetch", "index", "keys"])
async def test_a_full_disk_leaves_no_part_of_a_file_and_takes_unused_copies(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=LIMIT)
    used, content = [await blobs.put(f"files/{name}", b'{"n": %d}\n' % name) for name in range(2)]
    await files.count(used)

    def fill(_: object, place: object) -> None:
        if isinstance(place, Path):
            place.write_bytes(b"a part")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def fail(_: Claim, path: Path) -> None:
        fill(_, None)

    with monkeypatch.context() as patch:
        if step == "fetch":
            patch.setattr(blobs, "fetch", fail)
        elif step == "index":
            patch.setattr(local_rows, "_entries", lambda file: fill(None, None))
        else:
            patch.setattr(local_rows.np, "save", lambda place, keys: fill(None, place))
        with pytest.raises(Unavailable, match="No space left"):
            await files.keys(content)
    assert all(path.name.count(".") < 2 for path in tmp_path.iterdir())
    assert not [path for path in tmp_path.iterdir() if path.read_bytes() in (b"a part", b'{"n": 0}\n')]
    assert len(await files.keys(content)) == 1


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    files = LocalRows(blobs, tmp_path, limit_bytes=1 << 30)
    row = b'{"text": "%s"}\n' % (b"a" * 400)
    content = await blobs.put("files/a", row * 40_000)
    tracemalloc.start()
    await files.lines(content, np.arange(0, 40_000, 4_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < content.size_bytes / 4, (peak, content.size_bytes)
