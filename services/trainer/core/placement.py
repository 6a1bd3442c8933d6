"""Placement of the base: device, dtype, and activation memory of a pass."""

from dataclasses import dataclass
from typing import Literal

from services.trainer.core.microbatches import DEVICE_SHARE, TokenNumbers

BaseDType = Literal["float32", "bfloat16"]
DeviceType = Literal["cpu", "cuda"]
Checkpointing = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a rank holds the base: on device ``index`` of a type, in a dtype.

    LoRA weights, their gradients, AdamW's moments and the logits are float32 for every ``dtype`` of the base.
    ``checkpointing``: recompute layers in the backward pass instead of storing the forward pass's
    activations; auto: if the activations of a whole context would not fit the GPU, and of long lines on a
    CPU. ``memory_share`` limits this process's memory on a shared GPU.
    """

    dtype: BaseDType = "float32"
    device_type: DeviceType = "cpu"
    index: int = 0
    checkpointing: Checkpointing = "auto"
    memory_share: float | None = None

    @property
    def device(self) -> str:
        """Return the device as torch names it."""
        return "cpu" if self.device_type == "cpu" else f"cuda:{self.index}"


ON_CPU = Placement()


def recomputes(
    checkpointing: Checkpointing,
    numbers: TokenNumbers,
    *,
    item_bytes: int,
    context: int,
    free_bytes: int | None,
) -> bool:
    """Return whether layers are computed again; ``free_bytes`` are a GPU's, None: on the CPU."""
    if checkpointing != "auto" or free_bytes is None:
        return checkpointing == "on"
    return context * numbers.kept_bytes(item_bytes, recomputed=False) > DEVICE_SHARE * free_bytes
