"""Validates the arrays of an operation; errors name the path of the field."""

import math
from collections.abc import Sequence

import numpy as np

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.errors import InvalidField
from mint_common.training import Array

_ITEM_BYTES = {"int64": 8, "float32": 4}


def check_bytes(array: Array, field: str) -> None:
    """Check that an array has the bytes of its shape. Raises InvalidField."""
    if len(array.data) != math.prod(array.shape) * _ITEM_BYTES[array.dtype]:
        raise InvalidField(field=field, problem=f"{len(array.data)} bytes do not fit its shape")


def check_ids(parts: Sequence[bytes], kind: np.dtype, facts: BaseFacts, what: str) -> None:
    """Check that token ids, a part for each datum, are of the base's vocabulary. Raises InvalidField."""
    ids = np.frombuffer(b"".join(parts), kind)
    if ids.min() >= 0 and ids.max() < facts.vocab_size:
        return
    for index, part in enumerate(parts):
        own = np.frombuffer(part, kind)
        wrong = own[(own < 0) | (own >= facts.vocab_size)]
        if len(wrong):
            problem = f"token {wrong[0]} is outside the vocabulary 0..{facts.vocab_size - 1}"
            raise InvalidField(field=f"data[{index}].{what}", problem=problem)


def floats_of(array: Array) -> np.ndarray:
    """Return an array's values, flat, as float32."""
    return np.frombuffer(array.data, "<f4" if array.dtype == "float32" else "<i8").astype("<f4", copy=False)
