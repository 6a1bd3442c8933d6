"""DeepSpeed ZeRO-3 over the bare, frozen base (Rajbhandari et al. 2020, arXiv 1910.02054, stage 3).

The engine has no optimizer and is never called: its hooks gather a module's weights around that module's
forward and backward. Adapters are not parameters of the base's modules, so the engine never sees them. Stages
1 and 2 shard optimizer state and gradients of trained parameters, and a frozen base has neither.
"""

import os
from importlib import import_module

import torch

from services.trainer.adapters.lora.experts import LoraExperts
from services.trainer.adapters.model.resident_base import ResidentBase

_SHARED_MEMORY_OP = "deepspeed_shm_comm"


def partition(base: ResidentBase, device: torch.device) -> None:
    """Cut every parameter to this rank's share."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # as torchrun does; DeepSpeed insists on it
    # Seconds to import, and it reads the accelerator when it is.
    deepspeed = import_module("deepspeed")
    # Else built with a compiler at the first start: half a minute, for an all-reduce that is not used here.
    deepspeed.ops.__compatible_ops__[_SHARED_MEMORY_OP] = False
    deepspeed.init_distributed(dist_backend="gloo" if device.type == "cpu" else "nccl", verbose=False)
    experts = [slot for slot in base.slots if isinstance(slot, LoraExperts)]
    for slot in experts:
        for parameter in slot.base.parameters():
            # Read by the slot itself, not in the forward pass of the module that has them.
            deepspeed.zero.register_external_parameter(slot, parameter)
    deepspeed.initialize(
        model=base.target_scores,
        config={
            "train_micro_batch_size_per_gpu": 1,
            "steps_per_print": 10**9,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        },
    )
