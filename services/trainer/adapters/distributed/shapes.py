"""Shardings of a base: the weights that each rank holds, and how a pass gets the rest."""

from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from services.trainer.adapters.distributed.expert_parallel import own_experts
from services.trainer.adapters.distributed.passes import Passes
from services.trainer.adapters.distributed.ranks import Ranks
from services.trainer.adapters.distributed.tensor_parallel import cut_tensors
from services.trainer.adapters.model.resident_base import ResidentBase, bound_memory, load_base
from services.trainer.core.placement import Placement
from services.trainer.core.ranks import SPLITS_LINES, RankSetup, Sharding


def load_sharded(setup: RankSetup, ranks: Ranks) -> Passes:
    """Load a base and this rank's part of it. Every rank calls this at the same time."""
    sharding, placement = setup.sharding, setup.placement
    bound_memory(placement, ranks.device)
    base = load_base(setup.folder, Placement(dtype=placement.dtype, checkpointing="off"))
    mesh = init_device_mesh(ranks.device.type, (ranks.count,))
    _SHAPES[sharding](base, mesh)
    if sharding != "zero3":  # which has moved its own
        base.target_scores.to(ranks.device)
    base.device = ranks.device
    base.choose_checkpointing(placement)
    return Passes(base, ranks, splits_lines=sharding in SPLITS_LINES, has_whole_base=sharding == "data")


def shard_layers(base: ResidentBase, mesh: DeviceMesh) -> None:
    """FSDP2: flat slices of every parameter; a layer is whole on a rank while it computes."""
    scores = base.target_scores
    for layer in base.layers:
        fully_shard(layer, mesh=mesh)
    if scores.head.weight.dtype != base.dtype:  # a slice is of one dtype
        fully_shard(scores.head, mesh=mesh)
    fully_shard(scores, mesh=mesh)


def partition_parameters(base: ResidentBase, mesh: DeviceMesh) -> None:
    """ZeRO-3: an even share of every parameter; a module is whole on a rank while it computes."""
    from services.trainer.adapters.distributed.zero3 import partition  # DeepSpeed takes seconds to import

    is_cuda = mesh.device_type == "cuda"
    # `joined_ranks` has chosen this rank's GPU.
    partition(base, torch.device("cuda", torch.cuda.current_device()) if is_cuda else torch.device("cpu"))


def replicate(base: ResidentBase, mesh: DeviceMesh) -> None:
    """Data parallel: every rank has the whole base."""
    del base, mesh


_SHAPES: dict[Sharding, Callable[[ResidentBase, DeviceMesh], None]] = {
    "data": replicate,
    "zero3": partition_parameters,
    "fsdp": shard_layers,
    "tensor": cut_tensors,
    "expert": own_experts,
}


def base_bytes(module: nn.Module) -> int:
    """Return the bytes of weights that this rank holds."""
    return sum({id(one): _kept(one).nbytes for one in module.parameters()}.values())


def _kept(parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(parameter, DTensor):
        return parameter.to_local()
    return getattr(parameter, "ds_tensor", parameter)
