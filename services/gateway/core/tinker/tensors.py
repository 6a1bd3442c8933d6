"""Tensors of the Tinker API as arrays of the training protocol: dense or CSR, protobuf or JSON.

Only the form is checked here; the trainer checks what a loss needs at submission.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mint_common.errors import InvalidField
from mint_common.training import Array

MAX_ELEMENTS = 4 << 20
"""Maximum elements of a sparse array after expansion."""

_FLOAT, _INT = np.dtype("<f4"), np.dtype("<i8")
# bfloat16 is the upper half of a float32.
_WIRE: Mapping[int, "np.dtype[Any]"] = {1: _FLOAT, 2: _INT, 3: np.dtype("<i4"), 4: np.dtype("<u2")}
_BFLOAT16 = 4


class JsonTensor(msgspec.Struct, frozen=True):
    """A tensor as JSON: flat values, their shape (None: one dimension), with indices when it is sparse."""

    data: list[int | float]
    dtype: Literal["int64", "float32"]
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None


def read_tensor(tensor: Any, field: str) -> Array:  # a protobuf Tensor
    """Return a protobuf tensor as an array. Raises InvalidField."""
    if tensor.dtype not in _WIRE:
        raise InvalidField(field=field, problem=f"has dtype {tensor.dtype}, not float32 or int64")
    shape = tuple(tensor.shape)
    if tensor.WhichOneof("encoding") == "sparse_csr":
        csr = tensor.sparse_csr
        values = _values(csr.values, tensor.dtype, field)
        rows, columns = _elements(csr.crow_indices, _INT, field), _elements(csr.col_indices, _INT, field)
        return _array(_write_out(values, rows, columns, shape, field), shape)
    values = _values(tensor.dense, tensor.dtype, field)
    return _array(values, shape or (len(values),))


def read_json_tensor(tensor: JsonTensor, field: str) -> Array:
    """Return a JSON tensor as an array. Raises InvalidField."""
    kind = _INT if tensor.dtype == "int64" else _FLOAT
    values = _numbers(tensor.data, kind, field)
    shape = tuple(tensor.shape) if tensor.shape else (len(values),)
    if tensor.sparse_crow_indices is not None:
        rows = _numbers(tensor.sparse_crow_indices, _INT, field)
        columns = _numbers(tensor.sparse_col_indices or [], _INT, field)
        values = _write_out(values, rows, columns, shape, field)
    return _array(values, shape)


def read_token_ids(tokens: Sequence[int], field: str) -> bytes:
    """Return token ids as int32. Raises InvalidField."""
    ids = _numbers(tokens, _INT, field)
    if ids.size and (ids.min() < 0 or ids.max() >= 2**31):
        raise InvalidField(field=field, problem="has a token id below 0 or above int32")
    return ids.astype("<i4").tobytes()


def _numbers(values: Sequence[float], kind: "np.dtype[Any]", field: str) -> "np.ndarray[Any, Any]":
    found = np.asarray(values)
    if found.dtype.kind not in "if":  # an integer beyond int64 makes it unsigned, or one of objects
        raise InvalidField(field=field, problem="has a number that int64 cannot hold")
    if kind is _INT and found.dtype.kind == "f" and found.size:
        raise InvalidField(field=field, problem="has a fraction, but its dtype is int64")
    with np.errstate(over="ignore"):  # finiteness is checked later
        return found.astype(kind)


def _values(data: bytes, dtype: int, field: str) -> "np.ndarray[Any, Any]":
    raw = _elements(data, _WIRE[dtype], field)
    if dtype == _BFLOAT16:
        return (raw.astype("<u4") << 16).view(_FLOAT)
    return raw.astype(_INT) if dtype == 3 else raw


def _elements(data: bytes, kind: "np.dtype[Any]", field: str) -> "np.ndarray[Any, Any]":
    if len(data) % kind.itemsize:
        problem = f"has {len(data)} bytes, no whole number of {kind.itemsize}-byte elements"
        raise InvalidField(field=field, problem=problem)
    return np.frombuffer(data, kind)


def _write_out(
    values: "np.ndarray[Any, Any]",
    rows: "np.ndarray[Any, Any]",
    columns: "np.ndarray[Any, Any]",
    shape: tuple[int, ...],
    field: str,
) -> "np.ndarray[Any, Any]":
    """Return the dense values of compressed sparse rows; missing values are 0."""
    if len(shape) != 2 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        problem = (
            f"is sparse with shape {list(shape)}; it must have two dimensions and {MAX_ELEMENTS} elements"
        )
        raise InvalidField(field=field, problem=f"{problem} at most")
    counts = np.diff(rows)
    is_whole = len(rows) == shape[0] + 1 and rows[0] == 0 and rows[-1] == len(values) == len(columns)
    if not is_whole or counts.min() < 0 or (columns < 0).any() or (columns >= shape[1]).any():
        raise InvalidField(field=field, problem="has sparse indices that do not fit its shape and values")
    dense = np.zeros(shape, values.dtype)
    dense[np.repeat(np.arange(shape[0]), counts), columns] = values
    return dense


def _array(values: "np.ndarray[Any, Any]", shape: tuple[int, ...]) -> Array:
    dtype: Literal["int64", "float32"] = "int64" if values.dtype.kind == "i" else "float32"
    return Array(dtype=dtype, shape=shape, data=values.tobytes())
