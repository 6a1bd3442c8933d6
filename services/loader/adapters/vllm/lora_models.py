"""Tensors that a builder has laid out, as vLLM's LoRAModel: views of one mapping, no tensor copied.

vLLM reads an adapter tensor by tensor and then stacks those of each layer's experts: half a second for
48 layers of 128 experts, inside the engine's loop. Here the tensors are views in the very shape that vLLM's
wrapper of experts takes, so that its merging finds nothing to do; pages are read when they are copied into a
slot. The mapping is private: what vLLM writes to a tensor, it writes to a copy of a page.
"""

import math
import mmap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights, PackedLoRALayerWeights

from mint_common.adapters_format.names import leaf_of, split_packed_name, split_peft_name
from mint_common.adapters_format.sites import FOLDED, FOLDED_PROBLEM, ROTATED, ROTATED_PROBLEM
from services.loader.adapters.builder.wire import TensorAt
from services.loader.adapters.vllm.module_names import Rename, is_in_another_stage, known_modules

_GATED = ("gate_proj", "down_proj", "up_proj")
"""Expert projections in the order of vLLM's w1, w2, w3."""
_NOT_GATED = ("up_proj", "down_proj", "up_proj")
"""Tensors of experts without a gate; vLLM never reads the third."""


def model_of(
    worker_manager: Any, tensors: Mapping[str, Tensor], *, rank: int, number: int, rename: Rename
) -> Any:
    """Return the LoRAModel of tensors in the engine's dtype, which stay where they are. Raises ValueError."""
    config, manager = worker_manager.lora_config, worker_manager._adapter_manager  # noqa: SLF001
    if rank > config.max_lora_rank:
        raise ValueError(f"rank {rank} is over the engine's {config.max_lora_rank}")
    projections = _NOT_GATED if getattr(manager.model, "is_non_gated_moe", False) else _GATED
    whole = layer_weights(tensors, rank=rank, rename=rename, projections=projections)
    if not whole:
        raise ValueError("no module of the base matches: it would answer as the bare base")
    loras = {name: layer for name, layer in whole.items() if not is_in_another_stage(manager, name)}
    _check_modules(manager, loras)
    _fill_slices(manager, loras)
    return LoRAModel(number, rank, loras)


def map_laid_out(path: str | bytes, *, dtype: torch.dtype) -> Tensor:
    """Return a file of a dtype as one flat tensor over a mapping, which lives as long as a view of it does.

    Bytes may replace a path: they are a file's content. Raises FileNotFoundError when the builder has ended.
    """
    if isinstance(path, bytes):
        return torch.frombuffer(bytearray(path), dtype=dtype)
    with open(path, "rb") as file:  # noqa: PTH123  # no Path: a link of /proc leads to no name
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapped, dtype=dtype)


def map_arena(path: str, *, dtype: torch.dtype) -> Tensor:
    """Return the whole arena as one flat tensor; nothing is written to it here. Raises OSError."""
    with open(path, "r+b") as file:  # noqa: PTH123  # no Path: a link of /proc leads to no name
        return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=dtype)


def views(memory: Tensor, places: Sequence[TensorAt]) -> dict[str, Tensor]:
    """Return the tensors in a memory."""
    return {
        place.name: memory[place.begin : place.begin + math.prod(place.shape)].view(place.shape)
        for place in places
    }


def layer_weights(
    tensors: Mapping[str, Tensor], *, rank: int, rename: Rename, projections: Sequence[str] = _GATED
) -> dict[str, Any]:
    """Return module -> vLLM's weights of it, at scaling 1: alpha is in B already."""
    dense: dict[str, dict[str, Tensor]] = {}
    routed: dict[str, dict[tuple[str, str], Tensor]] = {}
    for name, tensor in tensors.items():
        packed = split_packed_name(name)
        if packed is None:
            dense_name = split_peft_name(name)
            assert dense_name is not None, "the adapter was checked"
            dense.setdefault(dense_name[0], {})[dense_name[1]] = tensor
        else:
            module, _, projection = packed[0].rpartition(".")
            routed.setdefault(module, {})[projection, packed[1]] = tensor
    loras: dict[str, Any] = {}
    for name, halves in dense.items():
        module = rename(name)
        loras[module] = LoRALayerWeights(module, rank, rank, halves["A"], halves["B"])
    for experts, parts in routed.items():
        module = rename(experts)
        loras[module] = _experts_weights(module, rank, parts, projections)
    return loras


def _fill_slices(manager: Any, loras: dict[str, Any]) -> None:
    """Divide linears among the slices of a fused one that has more: GLM-4's `gate_up_proj`, `in_proj_qkv`.

    vLLM does so itself, but not where the first of several is missing, nor for one alone.
    """
    for name, parts in manager.packed_modules.items():
        module, whole = manager.modules[name], loras.get(name)
        is_whole = whole is not None and not whole.is_packed  # experts are packed
        if not is_whole and module.n_slices == len(parts):
            continue
        found = [whole] if is_whole else [loras.get(part) for part in parts]
        if not any(found):
            continue
        for part in (name, *parts):
            loras.pop(part, None)
        loras[name] = _sliced(name, found, module.base_layer.output_sizes)


def _sliced(name: str, parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    rows = [0 if part is None else len(part.lora_b) for part in parts]
    if rows.count(0) > 1:
        raise ValueError(f"{name}: more than one part of it is missing, so that their widths are unknown")
    missing, rank = sum(sizes) - sum(rows), next(part.rank for part in parts if part is not None)
    a: list[Tensor | None] = []
    b: list[Tensor | None] = []
    for part, count in zip(parts, rows, strict=True):
        begin, end = 0, count or missing
        while begin < end:
            size = sizes[len(a)]
            a.append(part.lora_a if part is not None else None)
            b.append(part.lora_b[begin : begin + size] if part is not None else None)
            begin += size
    return PackedLoRALayerWeights(name, rank, [rank] * len(a), a, b, scaling=[1.0] * len(a))


def _experts_weights(
    module: str, rank: int, parts: Mapping[tuple[str, str], Tensor], projections: Sequence[str]
) -> Any:
    halves: dict[str, list[Tensor]] = {"A": [], "B": []}
    for projection in projections:
        for half, tensors in halves.items():
            tensor = parts.get((projection, half))
            # vLLM needs all three: an untargeted one is a zero, broadcast, that takes no memory.
            tensors.append(_zeros(projection, half, rank, parts) if tensor is None else tensor)
    return PackedLoRALayerWeights(module, rank, [rank] * 3, halves["A"], halves["B"], scaling=[1.0, 1.0, 1.0])


def _zeros(projection: str, half: str, rank: int, parts: Mapping[tuple[str, str], Tensor]) -> Tensor:
    some = next(iter(parts.values()))
    width = _width(projection, half, parts)
    shape = (some.shape[0], rank, width) if half == "A" else (some.shape[0], width, rank)
    return some.new_zeros(()).expand(shape)


def _width(projection: str, half: str, parts: Mapping[tuple[str, str], Tensor]) -> int:
    """Return a missing half's width: down goes from the experts' width to the model's, the others back."""
    wanted_model = (projection == "down_proj") == (half == "B")
    for (other, other_half), tensor in parts.items():
        if ((other == "down_proj") == (other_half == "B")) == wanted_model:
            return int(tensor.shape[2] if other_half == "A" else tensor.shape[1])
    raise AssertionError("A and B of one projection have both widths")


def _check_modules(manager: Any, loras: Mapping[str, object]) -> None:
    """Refuse an adapter that this engine would answer without: vLLM itself only notes it."""
    known = known_modules(manager)
    refused = {name: problem for name in loras if (problem := _problem(manager.model, name, known))}
    if refused:
        name, problem = next(iter(refused.items()))
        raise ValueError(f"no LoRA on {name}: {problem} ({len(refused)} such)")


def _problem(model: Any, module: str, known: Collection[str]) -> str:
    leaf = leaf_of(module)
    if leaf == FOLDED:
        return FOLDED_PROBLEM
    text = model.get_language_model() if hasattr(model, "get_language_model") else model
    if leaf in ROTATED and hasattr(text, "permute_qk_weight_for_rotary"):
        return ROTATED_PROBLEM
    if module in known:
        return ""
    try:
        return f"the engine has none for {type(model.get_submodule(module)).__name__}"
    except AttributeError:
        return "the engine has no such module"
