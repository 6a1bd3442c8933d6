"""Quantized bases: the quantization in `config.json`, and the original shapes of packed weights."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

from mint_common.errors import InvalidField

Method = Literal["awq", "compressed-tensors", "fp8", "gptq"]
WORD_BITS = 32


class Quantization(msgspec.Struct, frozen=True):
    """Storage of a base's linear weights; ``bits`` per weight."""

    method: Method
    bits: int

    def shape(self, form: str, stored: Sequence[int]) -> tuple[int, ...]:
        """Return (out, in) of a weight stored in a form: ``weight``, or packed into 32-bit words."""
        if form == "weight" or len(stored) != 2:
            return tuple(stored)
        rows, columns = stored
        if form == "weight_packed":
            return rows, columns * WORD_BITS // self.bits
        if self.method == "awq":
            return columns * WORD_BITS // self.bits, rows
        return columns, rows * WORD_BITS // self.bits


def read_quantization(config: Any, *, place: str) -> Quantization | None:  # Any: JSON that nobody has checked
    """Return how the base of a parsed `config.json` is quantized; None when it is not.

    Raises InvalidField, naming ``place``, for a method that MinT does not know.
    """
    stated = config.get("quantization_config") or config.get("compression_config")
    if not stated:
        return None
    method: Any = stated.get("quant_method", "") if isinstance(stated, dict) else ""
    if method not in get_args(Method):
        problem = f"quantized by {method or 'an unnamed method'}; MinT serves {', '.join(get_args(Method))}"
        raise InvalidField(field=place, problem=problem)
    bits = _group_bits(stated) if method == "compressed-tensors" else stated.get("bits", 8)
    if bits not in range(1, WORD_BITS + 1):
        raise InvalidField(field=place, problem=f"quantization_config: {bits!r} bits a weight")
    return Quantization(method=method, bits=bits)


def _group_bits(stated: dict[str, Any]) -> Any:  # Any: JSON, checked by the caller
    """Return the bits of all groups of compressed-tensors, None if they differ or are missing."""
    groups = stated.get("config_groups")
    weights = [group.get("weights") for group in groups.values()] if isinstance(groups, dict) else []
    found = {each.get("num_bits") for each in weights if isinstance(each, dict)}
    return found.pop() if len(found) == 1 else None
