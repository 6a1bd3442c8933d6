"""Rows that occur more than once: within a file, or in a training file and a validation file.

Rows are compared by the first 16 bytes of the sha256 of their canonical JSON: keys sorted, no white space.
"""

import hashlib
from collections.abc import Iterable
from heapq import nsmallest
from itertools import chain
from struct import Struct
from typing import Any

import msgspec

from mint_common.datasets.lines import lines_of
from mint_common.datasets.reading import decode_line
from mint_common.datasets.report import MAX_PAIRS, Repeats

DIGEST_BYTES = 16

_encode = msgspec.json.Encoder(order="deterministic").encode
_RECORD = Struct(f"<{DIGEST_BYTES}sI")
Pair = tuple[int, int]
"""A row's line, and the line of the earlier row that is equal to it."""


def row_digest(row: Any) -> bytes:  # JSON
    """Return what rows are compared by."""
    return hashlib.sha256(_encode(row)).digest()[:DIGEST_BYTES]


class RowDigests:
    """The digests of a file's rows with their lines: 20 bytes per row.

    They are in 256 parts by their first byte: equal rows are found part by part, in the memory of one.
    """

    def __init__(self) -> None:
        self.parts = tuple(bytearray() for _ in range(256))

    def add(self, line: int, row: Any) -> None:  # JSON
        """Add a decoded row, which comes after those before it."""
        digest = row_digest(row)
        self.parts[digest[0]].extend(_RECORD.pack(digest, line))

    def repeats(self) -> Repeats:
        """Return the rows that are equal to an earlier one."""
        return _counted(map(_repeated, self.parts))


def digests_of(chunks: Iterable[bytes]) -> RowDigests:
    """Return the digests of a file that comes in chunks and was checked before. Raises RowProblem."""
    found = RowDigests()
    for number, line in lines_of(chunks):
        if line and line.strip():
            found.add(number, decode_line(line))
    return found


def shared_rows(training: RowDigests, validation: RowDigests) -> Repeats:
    """Return the rows of the validation file that the training file has too, as (its line, training line)."""
    return _counted(map(_shared, training.parts, validation.parts))


def _repeated(part: bytearray) -> list[Pair]:
    first: dict[bytes, int] = {}
    pairs = ((line, first.setdefault(digest, line)) for digest, line in _RECORD.iter_unpack(part))
    return [pair for pair in pairs if pair[0] != pair[1]]


def _shared(training: bytearray, validation: bytearray) -> list[Pair]:
    first: dict[bytes, int] = {}
    for digest, line in _RECORD.iter_unpack(training):
        first.setdefault(digest, line)
    return [(line, first[digest]) for digest, line in _RECORD.iter_unpack(validation) if digest in first]


def _counted(parts: Iterable[list[Pair]]) -> Repeats:
    count, pairs = 0, list[Pair]()
    for found in parts:
        count += len(found)
        pairs = nsmallest(MAX_PAIRS, chain(pairs, found))
    return Repeats(count=count, pairs=tuple(pairs))
