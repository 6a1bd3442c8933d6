"""Reads rows from files of text: JSONL, a JSON array, CSV, TSV or lines, plain or compressed.

Invariant: one row is in memory at a time; of a JSON array its bytes are.
"""

import codecs
import csv
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec

from mint_client.core.refusals import ExtraMissingError, LocalFailureError
from mint_client.core.row_columns import Found, NumberedRows
from mint_client.core.source_names import FileKind
from mint_common.datasets import RowProblem, decode_line
from mint_common.datasets.lines import BOM, MAX_LINE_BYTES, lines_of
from mint_common.datasets.reading import too_long

_CHUNK_BYTES = 1 << 16
_GZIP = 16 + zlib.MAX_WBITS


def text_rows(path: Path, kind: FileKind) -> NumberedRows:
    """Yield the rows of a file, or what is wrong with one. Raises LocalFailureError, ExtraMissingError."""
    chunks = _decompressed(path, kind.compression) if kind.compression else _chunks(path)
    first = next((chunk for chunk in chunks if chunk.strip()), b"")
    chunks = _after(first, chunks)
    if kind.kind in {"CSV", "TSV"}:
        return _table(chunks, is_tsv=kind.kind == "TSV")
    if kind.kind == "text":
        return _texts(chunks)
    return _array(path, chunks) if first.removeprefix(BOM).lstrip().startswith(b"[") else _objects(chunks)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _after(first: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from chunks


class _Unpacking(Protocol):
    """One compressed stream, as zlib and zstandard read it."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _decompressed(path: Path, compression: str) -> Iterator[bytes]:
    """Yield the content of a file that is one compressed stream or several. Raises LocalFailureError."""
    begin, broken = _unpacking(path, compression)
    stream = begin()
    try:
        for chunk in _chunks(path):
            rest = chunk
            while rest:
                stream = begin() if stream.eof else stream
                yield stream.decompress(rest)
                rest = stream.unused_data
    except broken as error:
        problem = f"it is no {compression} data, or damaged ({error}): copy or download it again"
        raise LocalFailureError(what=str(path), problem=problem) from error
    if not stream.eof:
        problem = f"the {compression} data is cut off: copy or download it again"
        raise LocalFailureError(what=str(path), problem=problem)


def _unpacking(path: Path, compression: str) -> tuple[Callable[[], _Unpacking], type[Exception]]:
    if compression == "gzip":
        return lambda: zlib.decompressobj(_GZIP), zlib.error
    try:
        import zstandard  # an extra of the client
    except ImportError as error:
        raise ExtraMissingError(option=path.name, package="zstandard") from error
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


def _objects(chunks: Iterator[bytes]) -> NumberedRows:
    for number, line in lines_of(chunks):
        if line is None:
            yield number, too_long()
        elif line.strip():
            yield number, _object(line)


def _object(data: bytes) -> Found:
    try:
        return decode_line(data)
    except RowProblem as problem:
        return problem


def _array(path: Path, chunks: Iterator[bytes]) -> NumberedRows:
    data = b"".join(chunks).removeprefix(BOM)
    try:
        rows = msgspec.json.decode(data, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        problem = f"the JSON array is cut off or damaged ({error}): write it again, or one row a line"
        raise LocalFailureError(what=str(path), problem=problem) from error
    for number, row in enumerate(rows, 1):
        yield number, _object(bytes(row))


def _texts(chunks: Iterator[bytes]) -> NumberedRows:
    for number, line in lines_of(chunks):
        if line is None:
            yield number, too_long()
        elif line.strip():
            try:
                yield number, {"text": line.decode()}
            except UnicodeDecodeError:
                yield number, RowProblem("invalid_utf8", "the line is not UTF-8: save the file as UTF-8")


def _table(chunks: Iterator[bytes], *, is_tsv: bool) -> NumberedRows:
    """Yield the rows below a header, which are counted without it."""
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _text_lines(chunks)
    names: list[str] = []
    number = 0
    try:
        header = next(lines, "")
        separator = "\t" if is_tsv else ";" if ";" in header and "," not in header else ","
        reader = csv.reader(chain([header], lines), delimiter=separator, strict=True)
        for fields in filter(None, reader):
            if names:
                number += 1
                yield number, _fields(names, fields)
            names = names or _column_names(fields)
    except csv.Error as error:
        problem = f"{error}, at line {reader.line_num}: a quote is not closed, or not doubled"
        yield number + 1, RowProblem("invalid_value", problem)
    except RowProblem as problem:
        yield number + 1, problem


def _column_names(fields: list[str]) -> list[str]:
    names = [name or f"column {place}" for place, name in enumerate(fields, 1)]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise RowProblem("invalid_value", f"the header names column '{twice[:40]}' twice")
    return names


def _fields(names: list[str], fields: list[str]) -> Found:
    if len(fields) != len(names):
        return RowProblem("invalid_value", f"the row has {len(fields)} fields, the header has {len(names)}")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return RowProblem("invalid_utf8", "the row is not UTF-8: save the file as UTF-8")
    return dict(zip(names, fields, strict=True))


def _text_lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """Yield lines with their ends; bytes that are not UTF-8 become surrogates."""
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-8-sig", errors="surrogateescape"):
        *lines, rest = (rest + text).split("\n")
        for line in lines:
            yield f"{line}\n"
        if len(rest) > MAX_LINE_BYTES:
            problem = f"a line has more than {MAX_LINE_BYTES} characters: save the file with LF line ends"
            raise RowProblem("line_too_long", problem)
    if rest:
        yield rest
