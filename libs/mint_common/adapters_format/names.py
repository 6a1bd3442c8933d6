"""Names of layouts, files and tensors in an adapter."""

import re
from typing import Literal

DENSE = "dense/1"
"""PEFT names, one matrix per tensor; every projection of every expert is a module of its own."""
FUSED = "fused/1"
"""PEFT `target_parameters`: as dense, but all experts of a layer in two pairs, gate and up sharing A."""
PACKED = "packed/1"
"""Layout like dense, but with one tensor per (layer, projection, half) over all experts, in load order,
aligned."""
LAYOUTS = (DENSE, FUSED, PACKED)

Half = Literal["A", "B"]
HALVES: tuple[Half, Half] = ("A", "B")

_PREFIX = "base_model.model."
_OTHER_NAME = re.compile(r"(?:base_model\.model\.)?(.+\.lora_[AB])(?:\.default)?\.weight")


def peft_name(module: str, half: Half) -> str:
    """Return the PEFT name of a module's A ``[rank, in]`` or B ``[out, rank]``."""
    return f"{_PREFIX}{module}.lora_{half}.weight"


def packed_name(experts: str, projection: str, half: Half) -> str:
    """Return the name of a packed A ``[experts, rank, in]`` or B ``[experts, out, rank]``."""
    return f"{_PREFIX}{experts}.{projection}.lora_{half}.packed"


def canonical_name(name: str) -> str:
    """Return the PEFT name of a tensor that lacks PEFT's prefix, or has the name of its adapter in it."""
    found = _OTHER_NAME.fullmatch(name)
    return f"{_PREFIX}{found[1]}.weight" if found else name


def split_peft_name(name: str) -> tuple[str, Half] | None:
    """Return (module, half) of a canonical PEFT name, None for any other name."""
    return _split(name, "weight")


def split_packed_name(name: str) -> tuple[str, Half] | None:
    """Return (experts module and projection, half) of a packed name, None for any other name."""
    return _split(name, "packed")


def _split(name: str, ending: str) -> tuple[str, Half] | None:
    for half in HALVES:
        suffix = f".lora_{half}.{ending}"
        if name.startswith(_PREFIX) and name.endswith(suffix):
            module = name[len(_PREFIX) : -len(suffix)]
            return (module, half) if module else None
    return None


def leaf_of(module: str) -> str:
    """Return the last part of a module's name: ``q_proj``."""
    return module.rpartition(".")[2]


def twig_of(module: str) -> str:
    """Return the last two parts of a module's name: ``experts.up_proj``."""
    return ".".join(module.rsplit(".", 2)[-2:])
