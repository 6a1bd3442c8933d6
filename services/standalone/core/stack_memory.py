"""What each device of a stack holds when all parts are at work, computed from sizes and settings alone.

On a CPU everything is in the machine's memory. An engine on GPUs keeps its staged adapters in the machine's
memory, and so does a trainer the policies that are not resident.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mint_common.dtypes import ITEM_BYTES
from services.standalone.core.activations import (
    microbatch_tokens,
    pass_bytes,
    recomputes,
    step_bytes,
    wide_head_bytes,
)
from services.standalone.core.fleet import RESERVE_BYTES, USED_SHARE, slot_bytes, trainer_layouts
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.sizing import HOST_BYTES, RESIDENT_BYTES, kv_token_bytes

HOST = "host"

TRAINER_RUNTIME_BYTES = 320 << 20
LOADER_RUNTIME_BYTES = 935 << 20
WORKER_RUNTIME_BYTES = 440 << 20
"""The interpreter with torch, or with torch and vLLM, in processes that hold nothing yet: a trainer; a loader
with its engine, builder and resource tracker; a further worker of tensor parallelism. Proportional set size
(/proc/PID/smaps_rollup) in a stack of two bases on x86-64 Linux, CPU builds of torch 2.x and vLLM 0.32, less
what is counted below: tests/integration/standalone/test_plan_memory.py compares. Another build, such as
CUDA's, takes more of the machine's memory, which was not measured."""

TOKENIZER_BYTES = 2000
"""Of a loader for each entry of the vocabulary, measured with 264 and 49,152 entries."""

_WRITTEN = 1
"""Policies whose snapshot or export is being written: a copy of the state and the file."""
_LAID_OUT = 3
"""Float32 copies of an adapter that the builder has in hand while it lays one out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineWork:
    """What an engine is to hold. ``weights`` are given where its files are quantized.

    ``context`` tokens are the least KV cache; ``sequences`` and ``batched_tokens`` are the most of one step.
    """

    shape: ModelShape
    dtype: str
    max_rank: int
    slot_rank: int
    slots: int
    host_capacity: int
    host_bytes: int
    context: int
    sequences: int
    batched_tokens: int
    tensor: int = 1
    stages: int = 1
    kv_cache_bytes: int | None = None
    utilization: float | None = None
    weights: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerWork:
    """What a trainer is to hold; None: what it chooses by the memory that it finds."""

    shape: ModelShape
    dtype: str
    max_rank: int
    context: int
    resident_policies: int
    host_policies: int
    ranks: int = 1
    sharding: str = "none"
    microbatch_tokens: int | None = None
    checkpointing: Literal["auto", "on", "off"] = "auto"
    memory_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a stack, and the GPUs that it computes on: none is the CPU."""

    name: str
    gpus: tuple[int, ...]
    work: EngineWork | TrainerWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a part holds of one device, in bytes; ``limit`` is what it may take, None: as much as there is.

    ``slots`` are at the largest rank, ``staged`` adapters wait for one, ``policies`` are weights, gradients
    and moments in training, ``runtime`` is what the libraries take. ``kv_tokens`` fit the KV cache.
    """

    part: str
    device: str
    weights: int = 0
    kv_cache: int = 0
    slots: int = 0
    staged: int = 0
    policies: int = 0
    activations: int = 0
    runtime: int = 0
    kv_tokens: int = 0
    limit: int | None = None

    @property
    def total(self) -> int:
        """Return all of it."""
        return (
            self.weights
            + self.kv_cache
            + self.slots
            + self.staged
            + self.policies
            + self.activations
            + self.runtime
        )

    @property
    def fits(self) -> bool:
        """Return whether the part keeps to its limit."""
        return self.limit is None or self.total <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """What all parts hold of a device; ``capacity`` None: nobody knows it here."""

    device: str
    total: int
    capacity: int | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StackMemory:
    """What a stack holds, part by part and device by device."""

    holdings: tuple[Holding, ...]
    devices: tuple[DeviceUse, ...]

    @property
    def fits(self) -> bool:
        """Return whether everything has room."""
        return all(each.fits for each in self.devices)


def plan_memory(
    parts: Sequence[Part], *, host_bytes: int | None, gpu_bytes: Mapping[int, int]
) -> StackMemory:
    """Return what each device holds. A GPU that is not among ``gpu_bytes`` has no room at all."""
    holdings = tuple(each for part in parts for each in _holdings(part, gpu_bytes))
    capacity = {HOST: host_bytes, **{gpu_name(index): size for index, size in gpu_bytes.items()}}
    uses = []
    for device in dict.fromkeys((HOST, *(each.device for each in holdings))):
        own = [each for each in holdings if each.device == device]
        total, room = sum(each.total for each in own), capacity.get(device, 0)
        fits = all(each.fits for each in own) and (room is None or total <= room)
        uses.append(DeviceUse(device=device, total=total, capacity=room, fits=fits))
    return StackMemory(holdings=holdings, devices=tuple(uses))


def told_memory(planned: StackMemory) -> dict[str, Any]:  # JSON
    """Return a plan as JSON: bytes by part and device, and whether each device has room."""
    holdings = [{**asdict(each), "total": each.total} for each in planned.holdings]
    return {
        "holdings": holdings,
        "devices": [asdict(each) for each in planned.devices],
        "fits": planned.fits,
    }


def gpu_name(index: int) -> str:
    """Return what a GPU is called."""
    return f"GPU {index}"


def _holdings(part: Part, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    if isinstance(part.work, EngineWork):
        yield from _engine(part, part.work, gpu_bytes)
    else:
        yield from _trainer(part, part.work, gpu_bytes)


def _engine(part: Part, work: EngineWork, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    shape, item, workers = work.shape, ITEM_BYTES[work.dtype], work.tensor * work.stages
    weights = (work.weights or item * shape.parameters) // workers
    slots = slot_bytes(shape, rank=work.slot_rank, item=item, tensor=work.tensor) * work.slots // work.stages
    kv_token = kv_token_bytes(shape, item=item, tensor=work.tensor) // work.stages
    step = step_bytes(shape, item=item, tokens=work.batched_tokens, sequences=work.sequences)
    adapter = shape.lora_parameters(work.max_rank)
    staged = min(work.host_capacity * item * adapter, work.host_bytes)
    staged += _LAID_OUT * ITEM_BYTES["float32"] * adapter
    runtime = LOADER_RUNTIME_BYTES + TOKENIZER_BYTES * shape.vocab_size
    least = work.context * kv_token
    if not part.gpus:
        kv = work.kv_cache_bytes or least
        yield Holding(
            part=part.name,
            device=HOST,
            weights=weights * workers,
            kv_cache=kv * workers,
            slots=slots * workers,
            staged=staged,
            activations=step * workers,
            runtime=runtime + (workers - 1) * WORKER_RUNTIME_BYTES,
            kv_tokens=kv // kv_token,
        )
        return
    yield Holding(part=part.name, device=HOST, staged=staged, runtime=runtime)
    for index in part.gpus:
        limit = int((work.utilization or USED_SHARE) * gpu_bytes.get(index, 0))
        held = weights + slots + RESERVE_BYTES
        kv = work.kv_cache_bytes or max(least, limit - held)
        yield Holding(
            part=part.name,
            device=gpu_name(index),
            weights=weights,
            kv_cache=kv,
            slots=slots,
            runtime=RESERVE_BYTES,
            kv_tokens=kv // kv_token,
            limit=limit,
        )


def _trainer(part: Part, work: TrainerWork, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    shape, item = work.shape, ITEM_BYTES[work.dtype]
    adapter = shape.lora_parameters(work.max_rank)
    weights = item * _rank_parameters(work) + wide_head_bytes(shape, item)
    resident = work.resident_policies * RESIDENT_BYTES * adapter
    elsewhere = (work.host_policies * HOST_BYTES + _WRITTEN * RESIDENT_BYTES) * adapter
    if not part.gpus:
        tokens = work.microbatch_tokens or microbatch_tokens(shape, item)
        again = work.checkpointing == "on"
        yield Holding(
            part=part.name,
            device=HOST,
            weights=weights * work.ranks,
            policies=resident + elsewhere,
            activations=pass_bytes(shape, item, tokens, recomputed=again) * work.ranks,
            runtime=TRAINER_RUNTIME_BYTES * work.ranks,
        )
        return
    runtime = TRAINER_RUNTIME_BYTES * work.ranks
    yield Holding(part=part.name, device=HOST, policies=elsewhere, runtime=runtime)
    for rank, index in enumerate(part.gpus):
        limit = int((work.memory_share or 1.0) * gpu_bytes.get(index, 0))
        policies = 0 if rank else resident
        free = max(0, limit - weights - policies - RESERVE_BYTES)
        tokens = work.microbatch_tokens or microbatch_tokens(shape, item, free_bytes=free)
        again = work.checkpointing == "on" or (
            work.checkpointing == "auto" and recomputes(shape, item, context=work.context, free_bytes=free)
        )
        yield Holding(
            part=part.name,
            device=gpu_name(index),
            weights=weights,
            policies=policies,
            activations=pass_bytes(shape, item, tokens, recomputed=again),
            runtime=RESERVE_BYTES,
            limit=limit,
        )


def _rank_parameters(work: TrainerWork) -> int:
    """Return how many of the base's parameters one rank holds."""
    if work.sharding == "tensor":
        return work.shape.parameters // work.ranks
    layout = {"zero3": "fsdp"}.get(work.sharding, work.sharding)
    return trainer_layouts(work.shape, work.ranks).get(layout, work.shape.parameters)
