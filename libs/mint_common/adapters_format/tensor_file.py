"""The safetensors container, read without trust and written reproducibly.

Invariant: whatever the bytes are, reading either returns a header whose tensors tile the data exactly, or
raises AdapterInvalid.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mint_common.adapters_format.refusal import Reason, refusal, shown

MAX_HEADER_BYTES = 100_000_000
ITEM_BYTES: Mapping[str, int] = {"F32": 4, "BF16": 2, "F16": 2}
"""Allowed dtypes of adapter weights and their size."""

_DTYPE_OF_NUMPY = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_ALIGNMENT = 64


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


def read_header(file: BinaryIO, *, size_bytes: int) -> TensorHeader:
    """Read and check the header of a file of that size, leaving the file at the start of the data."""
    prefix = file.read(8)
    if len(prefix) < 8:
        raise refusal(Reason.NOT_SAFETENSORS, f"{size_bytes} bytes are too few for a header")
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER_BYTES:
        raise refusal(
            Reason.HEADER_TOO_LARGE, f"the header has {length} bytes, the limit is {MAX_HEADER_BYTES}"
        )
    if length > size_bytes - 8:
        problem = f"the header has {length} bytes, the file only {size_bytes}"
        raise refusal(Reason.NOT_SAFETENSORS, problem)
    entries = sorted(_entries(file.read(length)), key=lambda entry: (entry.begin, entry.end))
    data_begin = 8 + length
    _check_tiling(entries, size_bytes - data_begin)
    return TensorHeader(tensors=tuple(entries), data_begin=data_begin)


def write_tensors(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Return a safetensors file: tensors in name order, data aligned to 64 bytes, no metadata.

    The same tensors give the same bytes on every machine. Raises AdapterInvalid for a dtype that adapters
    may not have.
    """
    header: dict[str, object] = {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        end = offset + len(data)
        header[name] = {
            "dtype": dtype_of(array, name),
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        chunks.append(data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def dtype_of(array: np.ndarray, name: str) -> str:
    """Return the safetensors dtype of an array."""
    dtype = _DTYPE_OF_NUMPY.get(array.dtype.name)
    if dtype is None:
        problem = f"{shown(name)} is {array.dtype.name}, allowed are {', '.join(_DTYPE_OF_NUMPY)}"
        raise refusal(Reason.WRONG_DTYPE, problem)
    return dtype


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


def _check_tiling(entries: list[TensorEntry], data_bytes: int) -> None:
    expected = 0
    for entry in entries:
        if entry.begin != expected:
            problem = f"{shown(entry.name)} begins at byte {entry.begin} of the data, not {expected}"
            raise refusal(Reason.GAPS_OR_OVERLAPS, problem)
        expected = entry.end
    if expected != data_bytes:
        problem = f"tensors need {expected} bytes of data, the file has {data_bytes}"
        raise refusal(Reason.GAPS_OR_OVERLAPS, problem)
