"""Placement of a base on a fleet of GPUs: memory per device, and number of parts.

Computed, not measured: beside what is counted, RESERVE_BYTES stand for the CUDA context, graphs and buffers.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mint_client.core.tables import shown_bytes
from mint_common.dtypes import ITEM_BYTES
from mint_common.errors import InvalidField
from services.standalone.core.activations import pass_bytes, wide_head_bytes
from services.standalone.core.model_shape import Linear, ModelShape
from services.standalone.core.refusals import FleetTooSmallError
from services.standalone.core.sizing import RESIDENT_BYTES, context_bytes, kv_token_bytes

RESERVE_BYTES = 3 * 10**9
USED_SHARE = 0.92
"""Share of a device's memory that parts use: vLLM's default, also applied to trainers."""

MAX_TENSOR_PARALLEL = 8
"""Devices per machine; beyond that an engine's layers are split (pipeline parallel)."""

MAX_DEVICES = 4096
_FLEET = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})GB", re.ASCII)
_WHOLE = "_a_proj"
"""Part of the names of projections to a latent, which every worker has whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Devices of one size."""

    devices: int
    device_bytes: int

    @property
    def text(self) -> str:
        """Return it in the form of `read_fleet`."""
        return f"{self.devices}x{self.device_bytes // 10**9}GB"

    @property
    def usable_bytes(self) -> int:
        """Return the bytes of a device that parts can use."""
        return int(USED_SHARE * self.device_bytes) - RESERVE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The planned load of engines and trainer, and the dtype."""

    dtype: str
    max_rank: int
    slots: int
    policies: int
    context: int
    microbatch_tokens: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """The bytes on each device of a part.

    ``moving`` is the KV cache of one full context, or activations. ``kv_token`` are the bytes of a further
    token in the cache, 0 for a trainer.
    """

    part: str
    layout: str
    devices: int
    weights: int
    adapters: int
    moving: int
    kv_token: int = 0

    @property
    def moves(self) -> str:
        """Return the kind of ``moving``."""
        return "KV cache" if self.kv_token else "activations"

    @property
    def total(self) -> int:
        """Return all of it."""
        return self.weights + self.adapters + self.moving


def read_fleet(text: str) -> Fleet:
    """Return the fleet of a text like `64x80GB`; a GB is 10^9 bytes. Raises InvalidField."""
    match = _FLEET.fullmatch(text)
    if match is None:
        raise InvalidField(field="--fleet", problem=f"{text!r} is not of the form 64x80GB: devices x memory")
    return Fleet(devices=int(match[1]), device_bytes=int(match[2]) * 10**9)


def engine_share(shape: ModelShape, work: Work, devices: int) -> DeviceShare:
    """Return the load of an engine's device: tensor parallel within machines, pipeline parallel across."""
    tensor = min(devices, MAX_TENSOR_PARALLEL)
    stages = -(-devices // tensor)
    item = ITEM_BYTES[work.dtype]
    slot = slot_bytes(shape, rank=work.max_rank, item=item, tensor=tensor)
    kv = kv_token_bytes(shape, item=item, tensor=tensor)
    return DeviceShare(
        part="engine",
        layout=_engine_layout(tensor, stages),
        devices=tensor * stages,
        weights=item * shape.parameters // (tensor * stages),
        adapters=work.slots * slot // stages,
        moving=context_bytes(shape, item=item, tokens=work.context, tensor=tensor) // stages,
        kv_token=kv // stages,
    )


def slot_bytes(shape: ModelShape, *, rank: int, item: int, tensor: int) -> int:
    """Return the bytes of an adapter slot on each worker that shares the layers."""
    widths = (_lora_width(each, shape.hidden_size, tensor) * each.count for each in shape.lora_linears)
    return sum(widths) * rank * item


def _engine_layout(tensor: int, stages: int) -> str:
    if stages > 1:
        return f"tensor {tensor} x pipeline {stages}"
    return f"tensor {tensor}" if tensor > 1 else "whole"


def trainer_share(shape: ModelShape, work: Work, devices: int) -> DeviceShare:
    """Return the load of rank 0 of a trainer, in the sharding with the smallest load.

    Policies are whole at rank 0. Activations are those of a micro-batch with every layer computed again.
    """
    item = ITEM_BYTES[work.dtype]
    layouts = trainer_layouts(shape, devices)
    layout = min(layouts, key=lambda name: layouts[name])
    return DeviceShare(
        part="trainer",
        layout=layout,
        devices=devices,
        weights=item * layouts[layout] + (wide_head_bytes(shape, item) if devices > 1 else 0),
        adapters=work.policies * RESIDENT_BYTES * shape.lora_parameters(work.max_rank),
        moving=pass_bytes(shape, item, work.microbatch_tokens, recomputed=True),
    )


def trainer_layouts(shape: ModelShape, devices: int) -> Mapping[str, int]:
    """Return the number of parameters on a trainer's device in each possible sharding."""
    if devices == 1:
        return {"whole": shape.parameters}
    layouts = {"fsdp": shape.parameters // devices + shape.layer_parameters}
    if shape.expert_parameters:
        rest = shape.parameters - shape.expert_parameters
        layouts["expert"] = shape.expert_parameters // devices + rest
    return layouts


ShareAt = Callable[[ModelShape, Work, int], DeviceShare]
PARTS: Mapping[str, ShareAt] = {"trainer": trainer_share, "engine": engine_share}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """A trainer, and as many engines as a fleet has room for beside it; ``idle`` devices have no part.

    ``shared``: both are on one device. ``free_bytes`` of an engine's device are for more KV cache.
    """

    trainer: DeviceShare
    engine: DeviceShare
    engines: int
    idle: int
    free_bytes: int
    shared: bool = False

    def shares(self, fleet: Fleet) -> tuple[float, float]:
        """Return the total shares of one device for trainer and engine."""
        trainer = math.ceil((self.trainer.total + RESERVE_BYTES) / fleet.device_bytes * 100) / 100
        return trainer, round(USED_SHARE - trainer, 2)


def plan_fleet(shape: ModelShape, work: Work, fleet: Fleet) -> FleetPlan:
    """Return the plan of a fleet: a trainer on as few devices as possible, engines on the others.

    A single device is shared where both fit. Raises FleetTooSmallError, saying how many devices would do, or
    what does not shrink however many there are.
    """
    trainer, engine = (_placed(part, share_at, shape, work, fleet) for part, share_at in PARTS.items())
    beside = fleet.usable_bytes - RESERVE_BYTES - trainer.total - engine.total
    if fleet.devices == trainer.devices == engine.devices == 1 and beside >= 0:
        return FleetPlan(trainer=trainer, engine=engine, engines=1, idle=0, free_bytes=beside, shared=True)
    left = fleet.devices - trainer.devices
    if left < engine.devices:
        problem = (
            f"a trainer takes {trainer.devices} of its devices and an engine {engine.devices}, so that "
            f"{trainer.devices + engine.devices} would do"
        )
        raise FleetTooSmallError(fleet=fleet.text, problem=problem)
    engines, idle = divmod(left, engine.devices)
    free = fleet.usable_bytes - engine.total
    return FleetPlan(trainer=trainer, engine=engine, engines=engines, idle=idle, free_bytes=free)


def _placed(part: str, share_at: ShareAt, shape: ModelShape, work: Work, fleet: Fleet) -> DeviceShare:
    """Return a part on as few devices as it fits on, powers of two. Raises FleetTooSmallError."""
    for power in range(MAX_DEVICES.bit_length()):
        share = share_at(shape, work, 1 << power)
        if share.total <= fleet.usable_bytes:
            return share
    problem = (
        f"a {part} fits on no number of its devices: even one of {MAX_DEVICES} holds "
        f"{shown_bytes(share.weights)} of weights, {shown_bytes(share.adapters)} of adapters and "
        f"{shown_bytes(share.moving)} of {share.moves}; {shown_bytes(max(fleet.usable_bytes, 0))} are usable"
    )
    raise FleetTooSmallError(fleet=fleet.text, problem=problem)


def _lora_width(linear: Linear, hidden_size: int, tensor: int) -> int:
    """Return the values per rank on one worker: B is split, or A where a block ends."""
    if _WHOLE in linear.name:
        return linear.inputs + linear.outputs
    if linear.outputs == hidden_size:
        return linear.inputs // tensor + linear.outputs
    return linear.inputs + linear.outputs // tensor
