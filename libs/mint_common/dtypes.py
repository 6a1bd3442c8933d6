"""The dtypes that bases are computed in, and how many bytes a number of each takes."""

from collections.abc import Mapping
from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one element, by `Dtype`."""
