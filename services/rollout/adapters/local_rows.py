"""Rows of stored files, read from local copies, each with an index of its lines.

Invariants: jobs on the same content share a copy; memory is limited to a page of an index, the keys of a file
and the requested rows; no copy is removed while it is read. A copy without recent readers
is removed, and so are the longest unused ones when all exceed ``limit_bytes``, and all unused ones
when the disk is full.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from mint_common.blobs.port import Blobs
from mint_common.claims import Claim
from mint_common.datasets import RowLine, decode_line
from mint_common.datasets.lines import BOM
from mint_common.datasets.repeats import row_digest
from mint_common.errors import Unavailable, plain_problem
from mint_common.full_disks import full_disk
from services.rollout.core.row_order import RowKeys, RowNumbers

T = TypeVar("T")

IDLE_SECONDS = 1800.0
"""Time after its last read at which a copy is removed."""
_ENTRY = np.dtype([("offset", "<u8"), ("size", "<u4"), ("line", "<u4")])
_KEY_BYTES = 8
_PAGE_ROWS = 1 << 12


class LocalRows:
    """Rows of stored files, numbered from 0 among the lines that are not blank.

    Raises BlobMissing, BlobCorrupt and Unavailable.
    """

    def __init__(self, blobs: Blobs, folder: Path, *, limit_bytes: int) -> None:
        self._blobs = blobs
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._copies: dict[str, _Copy] = {}

    async def count(self, content: Claim) -> int:
        """Return how many rows there are."""
        async with self._opened(content) as copy:
            return copy.rows

    async def keys(self, content: Claim) -> RowKeys:
        """Return a key for each row, drawn from its canonical bytes. Raises RowProblem."""
        async with self._opened(content) as copy, copy.lock, self._room():
            return await _in_thread(copy.keys)

    async def size_bytes(self, content: Claim, rows: RowNumbers) -> int:
        """Return how many bytes some rows have together; reads none of them."""
        async with self._opened(content) as copy:
            return await _in_thread(lambda: copy.size_of(rows))

    async def lines(self, content: Claim, rows: RowNumbers) -> list[RowLine]:
        """Return some rows, in the requested order."""
        async with self._opened(content) as copy:
            return await _in_thread(lambda: copy.lines(rows))

    async def remove_unused(self) -> None:
        """Remove copies without recent readers, and more if all are too large."""
        if removed := self._forget_unused():
            await _in_thread(lambda: _remove_all(removed))

    def _forget_unused(self) -> list["_Copy"]:
        """Return the copies to remove, which can no longer be opened."""
        idle = [sha256 for sha256, copy in self._copies.items() if not copy.readers]
        total = sum(copy.size_bytes for copy in self._copies.values())
        now, removed = time.monotonic(), []
        for sha256 in sorted(idle, key=lambda each: self._copies[each].used_at):
            if total > self._limit_bytes or now - self._copies[sha256].used_at > IDLE_SECONDS:
                copy = self._copies.pop(sha256)
                total -= copy.size_bytes
                removed.append(copy)
        return removed

    async def _make(self, content: Claim, copy: "_Copy") -> None:
        async with self._room():
            await self._blobs.fetch(content, copy.path)
            await _in_thread(copy.write_index)

    @asynccontextmanager
    async def _room(self) -> AsyncIterator[None]:
        """Remove all unused copies when the disk is full, so that a retry has space."""
        try:
            yield
        except (OSError, Unavailable) as error:
            full = full_disk(error)
            if full is None:
                raise
            idle = [sha256 for sha256, each in self._copies.items() if not each.readers]
            removed = [self._copies.pop(sha256) for sha256 in idle]
            await _in_thread(lambda: _remove_all(removed))
            raise _unavailable(full) from error

    @asynccontextmanager
    async def _opened(self, content: Claim) -> AsyncIterator["_Copy"]:
        """Protect a copy from removal; create it if there is none."""
        # A name of its own: the copy before it may be being removed.
        path = self._folder / secrets.token_hex(16)
        copy = self._copies.setdefault(content.sha256, _Copy(path, content.size_bytes))
        copy.readers += 1
        try:
            await self.remove_unused()
            async with copy.lock:
                if not copy.is_ready:
                    await self._make(content, copy)
            yield copy
        finally:
            copy.readers -= 1
            copy.used_at = time.monotonic()


class _Copy:
    """One file of rows with its index."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self.path = path
        self._content_bytes = size_bytes
        self.lock = asyncio.Lock()
        self.readers = 0
        self.used_at = time.monotonic()
        self.is_ready = False
        self.rows = 0

    @property
    def size_bytes(self) -> int:
        """Return what its files take, the keys included, which may not be there yet."""
        return self._content_bytes + self.rows * (_ENTRY.itemsize + _KEY_BYTES)

    def write_index(self) -> None:
        """Write where each row is."""
        with _replacing(self._index) as made:
            with self.path.open("rb") as file, made.open("wb") as index:
                entries = _entries(file)
                while page := list(islice(entries, _PAGE_ROWS)):
                    np.array(page, _ENTRY).tofile(index)
            self.rows = made.stat().st_size // _ENTRY.itemsize
        self.is_ready = True

    def keys(self) -> RowKeys:
        """Return the keys, which are computed once."""
        if not self._keys.exists():
            digests = (row_digest(decode_line(row.data))[:_KEY_BYTES] for row in self._read(range(self.rows)))
            with _replacing(self._keys) as made:
                np.save(made, np.frombuffer(b"".join(digests), np.uint64))
        found: RowKeys = np.load(self._keys)
        return found

    def size_of(self, rows: RowNumbers) -> int:
        """Return how many bytes some rows have together."""
        index = np.memmap(self._index, _ENTRY, "r")
        return int(index["size"][rows].sum(dtype=np.int64))

    def lines(self, rows: RowNumbers) -> list[RowLine]:
        """Return some rows."""
        return list(self._read(rows))

    def remove(self) -> None:
        """Remove all of it."""
        for path in (self.path, self._index, self._keys):
            path.unlink(missing_ok=True)

    @property
    def _index(self) -> Path:
        return self.path.with_suffix(".index")

    @property
    def _keys(self) -> Path:
        return self.path.with_suffix(".npy")

    def _read(self, rows: RowNumbers | range) -> Iterator[RowLine]:
        index = np.memmap(self._index, _ENTRY, "r")
        with self.path.open("rb") as file:
            for row in rows:
                offset, size, line = index[row].item()
                file.seek(offset)
                yield RowLine(line=line, data=file.read(size))


def _remove_all(copies: Iterable[_Copy]) -> None:
    for copy in copies:
        copy.remove()


async def _in_thread(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except OSError as error:
        raise _unavailable(error) from error


def _unavailable(error: OSError) -> Unavailable:
    return Unavailable(what="the folder for rows", problem=plain_problem(error))


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that then replaces the file; a cancelled caller's thread continues."""
    made = path.with_suffix(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield made
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _entries(file: Iterator[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yield where each row begins, how many bytes it has, and its line; blank lines are none."""
    offset = 0
    for line, data in enumerate(file, start=1):
        begin = len(BOM) if line == 1 and data.startswith(BOM) else 0
        row = data[begin:].removesuffix(b"\n").removesuffix(b"\r")
        if row.strip():
            yield offset + begin, len(row), line
        offset += len(data)
