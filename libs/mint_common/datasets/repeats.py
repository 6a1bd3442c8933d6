"""Rows that occur more than once: within a file, or in a training file and a validation file.

Rows are compared by the first 16 bytes of the sha256 of their canonical JSON: keys sorted, no white space.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mint_common.datasets.lines import FileLine, LineReader
from mint_common.datasets.reading import decode_line
from mint_common.datasets.report import MAX_PAIRS, Repeats

DIGEST_BYTES = 16

_encode = msgspec.json.Encoder(order="deterministic").encode


class RowDigests:
    """The digests of a file's rows with their lines: 20 bytes a row."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._lines = array("I")

    def add(self, line: int, row: Any) -> None:  # JSON
        """Add a decoded row."""
        self._digests += hashlib.sha256(_encode(row)).digest()[:DIGEST_BYTES]
        self._lines.append(line)

    def repeats(self) -> Repeats:
        """Return the rows that are equal to an earlier one."""
        order, first_of = _groups(self.keys())
        is_repeat = order != first_of
        return _told(self.lines()[order[is_repeat]], self.lines()[first_of[is_repeat]])

    def keys(self) -> NDArray[np.uint64]:
        """Return the digests, [rows, 2]."""
        return np.frombuffer(bytes(self._digests), np.uint64).reshape(-1, 2)

    def lines(self) -> NDArray[np.uint32]:
        """Return the lines, [rows]."""
        return np.array(self._lines, np.uint32)


def digests_of(chunks: Iterable[bytes]) -> RowDigests:
    """Return the digests of a file that comes in chunks and was checked before. Raises RowProblem."""
    found = RowDigests()
    for number, line in _lines(chunks):
        if line and line.strip():
            found.add(number, decode_line(line))
    return found


def _lines(chunks: Iterable[bytes]) -> Iterator[FileLine]:
    reader = LineReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.finish()


def shared_rows(training: RowDigests, validation: RowDigests) -> Repeats:
    """Return the rows of the validation file that the training file has too, as (its line, training line)."""
    keys = np.concatenate([training.keys(), validation.keys()])
    order, first_of = _groups(keys)
    count = len(training.keys())
    is_shared = (order >= count) & (first_of < count)
    return _told(validation.lines()[order[is_shared] - count], training.lines()[first_of[is_shared]])


def _groups(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an order of the rows that puts equal keys together, and the first row of the group of each."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    starts = np.ones(len(order), bool)
    for column in (keys[:, 0][order], keys[:, 1][order]):
        starts[1:] &= column[1:] == column[:-1]
    starts[1:] = ~starts[1:]
    return order, order[np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))]


def _told(lines: NDArray[np.uint32], earlier: NDArray[np.uint32]) -> Repeats:
    first = np.argsort(lines)[:MAX_PAIRS]
    pairs = tuple((int(line), int(other)) for line, other in zip(lines[first], earlier[first], strict=True))
    return Repeats(count=len(lines), pairs=pairs)
