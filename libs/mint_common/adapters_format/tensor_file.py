"""The safetensors container, read without trust and written reproducibly.

Invariant: reading any bytes either returns a header whose tensors tile the data exactly, or raises
AdapterInvalid.

The container allows no gaps, so a tensor of zeros named ``pad.<n>`` precedes a tensor that must begin at a
multiple of 64 bytes. Only shapes whose bytes are not such a multiple need one.
"""

import io
import json
import math
import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.refusal import Reason, refusal, shown

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES: Mapping[str, int] = {"F32": 4, "BF16": 2, "F16": 2}
"""Allowed dtypes of adapter weights and their size."""

PAD_DTYPE = "U8"
ALIGNMENT = 64

_DTYPE_OF_NUMPY = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
NUMPY_OF_DTYPE = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # numpy itself has no bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor of a header; ``begin`` and ``end`` count bytes from the start of the data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorHeader:
    """All tensors of a file in data order; ``data_begin`` is where the data starts in the file."""

    tensors: tuple[TensorEntry, ...]
    data_begin: int


def read_header(file: BinaryIO, *, size_bytes: int, limit: int = MAX_HEADER_BYTES) -> TensorHeader:
    """Read and check the header of a file of that size, leaving the file at the start of the data.

    A header of more than ``limit`` bytes is refused before it is read: its JSON takes many times that.
    """
    prefix = file.read(8)
    if len(prefix) < 8:
        raise refusal(Reason.NOT_SAFETENSORS, f"{size_bytes} bytes are too few for a header")
    (length,) = struct.unpack("<Q", prefix)
    if length > limit:
        raise refusal(Reason.HEADER_TOO_LARGE, f"the header has {length} bytes, the limit is {limit}")
    if length > size_bytes - 8:
        problem = f"the header has {length} bytes, the file only {size_bytes}"
        raise refusal(Reason.NOT_SAFETENSORS, problem)
    text = file.read(length)
    # Adapters of one shape have one header: reading it takes longer than anything else about a small one.
    entries = _kept_entries(text) if length <= _MAX_KEPT_BYTES else _ordered_entries(text)
    data_begin = 8 + length
    _check_tiling(entries, size_bytes - data_begin)
    return TensorHeader(tensors=entries, data_begin=data_begin)


def map_tensors(path: Path) -> "TensorFile":
    """Map a file of tensors into memory, until its last array is gone. Raises AdapterInvalid."""
    with path.open("rb") as file:
        header = read_header(file, size_bytes=path.stat().st_size)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return TensorFile(header=header, mapped=mapped)


def read_tensors(data: bytes) -> "TensorFile":
    """Return the tensors of a file in memory. Raises AdapterInvalid."""
    return TensorFile(header=read_header(io.BytesIO(data), size_bytes=len(data)), mapped=data)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFile:
    """A file, mapped or in memory; its arrays are views of it."""

    header: TensorHeader
    mapped: mmap.mmap | bytes

    def array(self, entry: TensorEntry) -> np.ndarray:
        """Return a tensor without copying it; BF16 comes as uint16."""
        data = np.frombuffer(
            self.mapped,
            dtype=NUMPY_OF_DTYPE[entry.dtype],
            count=math.prod(entry.shape),
            offset=self.header.data_begin + entry.begin,
        )
        return data.reshape(entry.shape)

    def flat(self, dtype: str) -> np.ndarray:
        """Return all data of a file of one dtype, pads included, without copying it."""
        return np.frombuffer(self.mapped, dtype=NUMPY_OF_DTYPE[dtype], offset=self.header.data_begin)

    def release(self) -> None:
        """Release the pages that were read; reading again maps them again."""
        if isinstance(self.mapped, mmap.mmap):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def place(tensors: Iterable[tuple[str, str, Sequence[int]]], *, aligned: bool) -> tuple[TensorEntry, ...]:
    """Return the offsets of (name, dtype, shape) in a file with this order, with pads if aligned."""
    entries: list[TensorEntry] = []
    offset = 0
    pads = 0
    for name, dtype, shape in tensors:
        gap = -offset % ALIGNMENT if aligned else 0
        if gap:
            end = offset + gap
            pad = TensorEntry(name=f"pad.{pads}", dtype=PAD_DTYPE, shape=(gap,), begin=offset, end=end)
            entries.append(pad)
            offset, pads = end, pads + 1
        end = offset + math.prod(shape) * ITEM_BYTES[dtype]
        entries.append(TensorEntry(name=name, dtype=dtype, shape=tuple(shape), begin=offset, end=end))
        offset = end
    return tuple(entries)


def header_bytes(entries: Iterable[TensorEntry]) -> bytes:
    """Return the header, padded so that the data begins at a multiple of 64 bytes."""
    header = {
        entry.name: {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
        for entry in entries
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def write_tensors(tensors: Mapping[str, np.ndarray], *, packed: bool = False) -> bytes:
    """Return a safetensors file: in name order or, packed, in the given order and aligned; no metadata.

    The same tensors give the same bytes on every machine. Raises AdapterInvalid for a dtype that adapters
    may not have.
    """
    arrays = {name: np.ascontiguousarray(tensors[name]) for name in (tensors if packed else sorted(tensors))}
    entries = place(
        ((name, dtype_of(array, name), array.shape) for name, array in arrays.items()), aligned=packed
    )
    chunks = [header_bytes(entries)]
    for entry in entries:
        if entry.dtype == PAD_DTYPE:
            chunks.append(bytes(entry.end - entry.begin))
        else:
            array = arrays[entry.name]
            chunks.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return b"".join(chunks)


def dtype_of(array: np.ndarray, name: str) -> str:
    """Return the safetensors dtype of an array."""
    dtype = _DTYPE_OF_NUMPY.get(array.dtype.name)
    if dtype is None:
        problem = f"{shown(name)} is {array.dtype.name}, allowed are {', '.join(_DTYPE_OF_NUMPY)}"
        raise refusal(Reason.WRONG_DTYPE, problem)
    return dtype


_MAX_KEPT_BYTES = 64 << 10


def _ordered_entries(text: bytes) -> tuple[TensorEntry, ...]:
    return tuple(sorted(_entries(text), key=lambda entry: (entry.begin, entry.end)))


_kept_entries = lru_cache(maxsize=16)(_ordered_entries)


def _entries(text: bytes) -> list[TensorEntry]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise refusal(Reason.NOT_SAFETENSORS, f"the header is not JSON: {str(error)[:120]}") from error
    if not isinstance(header, dict):
        raise refusal(Reason.NOT_SAFETENSORS, "the header is not a JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise refusal(Reason.NOT_SAFETENSORS, "__metadata__ is not a map of strings")
    return [_entry(name, value) for name, value in header.items()]


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name appears twice")
    return result


def _entry(name: str, value: object) -> TensorEntry:
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest} if not rest:
            if all(_is_size(number) for number in (*shape, begin, end)) and begin <= end:
                return TensorEntry(name=name, dtype=dtype, shape=tuple(shape), begin=begin, end=end)
    raise refusal(Reason.NOT_SAFETENSORS, f"the entry of {shown(name)} is malformed")


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**63


def _check_tiling(entries: Sequence[TensorEntry], data_bytes: int) -> None:
    expected = 0
    for entry in entries:
        if entry.begin != expected:
            problem = f"{shown(entry.name)} begins at byte {entry.begin} of the data, not {expected}"
            raise refusal(Reason.GAPS_OR_OVERLAPS, problem)
        expected = entry.end
    if expected != data_bytes:
        problem = f"tensors need {expected} bytes of data, the file has {data_bytes}"
        raise refusal(Reason.GAPS_OR_OVERLAPS, problem)
