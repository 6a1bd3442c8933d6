"""Tensors that a builder has laid out, as vLLM's LoRAModel: views of one mapping, no tensor copied.

vLLM reads an adapter tensor by tensor and then stacks those of each layer's experts: half a second for
48 layers of 128 experts, inside the engine's loop. Here the tensors are views in the very shape that vLLM's
wrapper of experts takes, so that its merging finds nothing to do; pages are read when they are copied into a
slot. The mapping is private: what vLLM writes to a tensor, it writes to a copy of a page.
"""

import math
import mmap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import FusedMoE3DWithLoRA
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights, PackedLoRALayerWeights
from vllm.lora.utils import parse_fine_tuned_lora_name
from vllm.model_executor.models.utils import is_pp_missing_parameter

from mint_common.adapters_format.names import leaf_of, split_packed_name
from mint_common.adapters_format.sites import FOLDED
from services.loader.adapters.builder.wire import TensorAt

_PROJECTIONS = ("gate_proj", "down_proj", "up_proj")
"""Expert projections in the order of vLLM's w1, w2, w3."""

Rename = Callable[[str], str]


def model_of(
    worker_manager: Any, tensors: Mapping[str, Tensor], *, rank: int, number: int, rename: Rename
) -> Any:
    """Return the LoRAModel of tensors in the engine's dtype, which stay where they are. Raises ValueError."""
    config, manager = worker_manager.lora_config, worker_manager._adapter_manager  # noqa: SLF001
    if rank > config.max_lora_rank:
        raise ValueError(f"rank {rank} is over the engine's {config.max_lora_rank}")
    whole = layer_weights(tensors, rank=rank, rename=rename)
    if not whole:
        raise ValueError("no module of the base matches: it would answer as the bare base")
    loras = {name: layer for name, layer in whole.items() if not is_in_another_stage(manager, name)}
    _check_modules(manager, loras)
    return LoRAModel(number, rank, loras)


def is_in_another_stage(manager: Any, module: str) -> bool:
    """Return whether a module belongs to a stage of the pipeline that another worker runs."""
    return bool(is_pp_missing_parameter(f"{module}.", manager.model))


def renaming(model: Any) -> Rename:
    """Return what turns a tensor's name into the name of the engine's module."""
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    mapper = mapper.get_rename_mapper() if mapper is not None else None

    def rename(peft_name: str) -> str:
        return str(parse_fine_tuned_lora_name(peft_name, mapper)[0])

    return rename


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


def layer_weights(tensors: Mapping[str, Tensor], *, rank: int, rename: Rename) -> dict[str, Any]:
    """Return module -> vLLM's weights of it, at scaling 1: alpha is in B already."""
    dense: dict[str, dict[str, Tensor]] = {}
    routed: dict[str, dict[tuple[str, str], Tensor]] = {}
    for name, tensor in tensors.items():
        packed = split_packed_name(name)
        if packed is None:
            half = "A" if ".lora_A." in name else "B"
            dense.setdefault(rename(name), {})[half] = tensor
        else:
            module, _, projection = packed[0].rpartition(".")
            routed.setdefault(module, {})[projection, packed[1]] = tensor
    loras: dict[str, Any] = {
        module: LoRALayerWeights(module, rank, rank, halves["A"], halves["B"])
        for module, halves in dense.items()
    }
    for experts, parts in routed.items():
        module = rename(f"base_model.model.{experts}.lora_A.weight")
        loras[module] = _experts_weights(module, rank, parts)
    return loras


def _experts_weights(module: str, rank: int, parts: Mapping[tuple[str, str], Tensor]) -> Any:
    halves: dict[str, list[Tensor]] = {"A": [], "B": []}
    for projection in _PROJECTIONS:
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
    folded = [name for name in loras if leaf_of(name) == FOLDED]
    if folded:
        problem = "the engine folds it into other products when it loads the base; train without it"
        raise ValueError(f"LoRA on {folded[0]} would have no effect ({len(folded)} such): {problem}")
    known = set(manager.modules)
    for parts in manager.packed_modules.values():
        known.update(parts)
    unknown = sorted(set(loras) - known)
    if unknown:
        raise ValueError(f"the engine has no LoRA for {unknown[0]} ({len(unknown)} such)")
    fused = [name for name in loras if isinstance(manager.modules.get(name), FusedMoE3DWithLoRA)]
    if fused:
        raise ValueError(f"{fused[0]} takes fused adapters only, unless enable_mixed_moe_lora_format is on")
