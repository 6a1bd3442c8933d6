"""Weights of a base: the tensors that LoRA can act on, and their norms."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from mint_common.adapters_format.tensor_file import ITEM_BYTES, TensorEntry, map_tensors
from mint_common.adapters_format.updates import sum_of_squares

# Not the router, nor the indexer of sparse attention: its forward pass has no gradient.
LINEAR = re.compile(
    r"(model\.layers\.(?P<layer>\d+)\."
    r"(?:self_attn\.(?:[qkvo]_proj|q_[ab]_proj|kv_a_proj_with_mqa|kv_b_proj)"
    r"|mlp\.(?:shared_experts\.)?(?:gate|up|down)_proj))\.(?P<form>weight|qweight|weight_packed)"
)
EXPERT = re.compile(
    r"(model\.layers\.(?P<layer>\d+)\.mlp\.experts)\."
    r"(?:(?P<expert>\d+)\.(?P<projection>gate_proj|up_proj|down_proj)\.(?P<form>weight|qweight|weight_packed)"
    r"|(?P<fused>gate_up_proj|down_proj)(?:\.weight)?)"
)


def weight_norms(paths: Iterable[Path], sites: Collection[str]) -> dict[str, float]:
    """Return the Frobenius norm of the weight of each site, all experts of one together, to six digits.

    Weights that say nothing without their scales (fp8, packed words) are left out. Raises AdapterInvalid.
    """
    squares: dict[str, float] = defaultdict(float)
    for path in paths:
        file = map_tensors(path)
        for entry in file.header.tensors:
            for name, part in _parts(entry):
                if name in sites:
                    known = entry.dtype in ITEM_BYTES
                    squares[name] += sum_of_squares(file.array(entry)[part]) if known else math.nan
            file.release()
    norms = {name: math.sqrt(total) for name, total in sorted(squares.items()) if math.isfinite(total)}
    return {name: float(f"{norm:.6g}") for name, norm in norms.items()}


_Part = tuple[slice, ...]


def _parts(entry: TensorEntry) -> Iterator[tuple[str, _Part]]:
    """Yield the modules of a tensor, each with its part of the tensor."""
    if match := LINEAR.fullmatch(entry.name):
        yield match[1], ()
    elif match := EXPERT.fullmatch(entry.name):
        if match["fused"] == "gate_up_proj":
            half = entry.shape[1] // 2
            yield f"{match[1]}.gate_proj", (slice(None), slice(half))
            yield f"{match[1]}.up_proj", (slice(None), slice(half, None))
        else:
            yield f"{match[1]}.{match['projection'] or match['fused']}", ()
