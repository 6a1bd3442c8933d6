"""The memory on each device of a stack at full load, computed from sizes and settings.

On a CPU everything is in the machine's memory. An engine on GPUs keeps its staged adapters in the machine's
memory, and so does a trainer the policies that are not resident.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mint_common.dtypes import ITEM_BYTES
from services.loader.core.execution import (
    CPU_KV_BYTES,
    CPU_SEQUENCES,
    GPU_SEQUENCES,
    reserved_sequences,
    slot_rank,
)
from services.loader.settings import LoaderSettings
from services.standalone.core.activations import pass_bytes, step_bytes, wide_head_bytes
from services.standalone.core.fleet import RESERVE_BYTES, USED_SHARE, slot_bytes, trainer_layouts
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.sizing import HOST_BYTES, RESIDENT_BYTES, context_bytes, kv_token_bytes
from services.trainer.core.microbatches import fitting_tokens
from services.trainer.core.placement import recomputes
from services.trainer.settings import TrainerSettings

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
"""Bytes of a loader's tokenizer per entry of the vocabulary, measured with 264 and 49,152 entries."""

_BATCHED_TOKENS, _BATCHED_TOKENS_LARGE = 2048, 8192
"""Maximum tokens of an engine's step: vLLM's defaults for a server, the second on large GPUs. On a CPU each
worker adds as many."""
_LARGE_GPU_BYTES = 70 << 30
_WRITTEN = 1
"""Policies whose snapshot or export is being written: a copy of the state, and the file."""
_STACKED_BYTES = 8
"""Bytes of a LoRA parameter in a pass of several policies: a copy among the others', and its gradient."""
_LAID_OUT = 3
"""Float32 copies of an adapter in the builder while it lays one out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBase:
    """A base as its parts load it; ``weights`` are set if its files are quantized."""

    shape: ModelShape
    max_rank: int
    max_context: int
    weights: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a stack with its settings and its GPUs; none is the CPU."""

    name: str
    gpus: tuple[int, ...]
    base: PlannedBase
    settings: LoaderSettings | TrainerSettings

    @property
    def item_bytes(self) -> int:
        """Return the bytes per weight of the base."""
        is_narrow = bool(self.gpus) or self.base.weights is not None
        usual = "bfloat16" if is_narrow else "float32"
        return ITEM_BYTES[usual if self.settings.dtype == "auto" else self.settings.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Memory of a part on one device, in bytes; ``limit`` None is the whole device.

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
        on_device = self.weights + self.kv_cache + self.slots + self.staged + self.policies
        return on_device + self.activations + self.runtime

    @property
    def fits(self) -> bool:
        """Return whether the part is within its limit."""
        return self.limit is None or self.total <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """The memory of all parts on a device; ``capacity`` None is unknown."""

    device: str
    total: int
    capacity: int | None
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StackMemory:
    """The memory of a stack, by part and by device."""

    holdings: tuple[Holding, ...]
    devices: tuple[DeviceUse, ...]

    @property
    def fits(self) -> bool:
        """Return whether all parts fit."""
        return all(each.fits for each in self.devices)


def plan_memory(
    parts: Sequence[Part], *, host_bytes: int | None, gpu_bytes: Mapping[int, int]
) -> StackMemory:
    """Return the use of each device. A GPU that is not in ``gpu_bytes`` has no memory."""
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
    """Return the name of a GPU."""
    return f"GPU {index}"


def _holdings(part: Part, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    if isinstance(part.settings, LoaderSettings):
        yield from _engine(part, part.settings, gpu_bytes)
    else:
        yield from _trainer(part, part.settings, gpu_bytes)


def _engine(part: Part, settings: LoaderSettings, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    base, shape, item = part.base, part.base.shape, part.item_bytes
    tensor, stages = settings.tensor_parallel, settings.pipeline_parallel
    workers = tensor * stages
    weights = (base.weights or item * shape.parameters) // workers
    rank = slot_rank(base.max_rank)
    slots = slot_bytes(shape, rank=rank, item=item, tensor=tensor) * settings.slots // stages
    kv_token = kv_token_bytes(shape, item=item, tensor=tensor) // stages
    seats = settings.max_sequences or (GPU_SEQUENCES if part.gpus else CPU_SEQUENCES)
    sequences = seats + reserved_sequences(seats)
    largest = max((gpu_bytes.get(index, 0) for index in part.gpus), default=0)
    usual = _BATCHED_TOKENS_LARGE if largest >= _LARGE_GPU_BYTES else _BATCHED_TOKENS
    usual *= 1 if part.gpus else workers
    tokens = int(json.loads(settings.engine_args or "{}").get("max_num_batched_tokens", usual))
    step = step_bytes(shape, item=item, tokens=tokens, sequences=sequences)
    adapter = shape.lora_parameters(base.max_rank)
    staged = min(settings.host_capacity * item * adapter, settings.host_bytes)
    if part.gpus and settings.executor == "mp":
        staged = settings.host_bytes  # the arena, pinned as a whole
    staged += _LAID_OUT * ITEM_BYTES["float32"] * adapter
    runtime = LOADER_RUNTIME_BYTES + TOKENIZER_BYTES * shape.vocab_size
    if not part.gpus:
        kv = settings.kv_cache_bytes or CPU_KV_BYTES
        yield Holding(
            part=part.name,
            device=HOST,
            weights=weights * workers,
            kv_cache=kv * workers,
            slots=slots * workers,
            staged=staged,
            activations=step * workers,
            runtime=runtime + (workers - 1) * WORKER_RUNTIME_BYTES,
            kv_tokens=kv // max(1, kv_token),
        )
        return
    yield Holding(part=part.name, device=HOST, staged=staged, runtime=runtime)
    for index in part.gpus:
        limit = int((settings.gpu_memory_utilization or USED_SHARE) * gpu_bytes.get(index, 0))
        context = min(base.max_context, settings.max_context)
        least = context_bytes(shape, item=item, tokens=context, tensor=tensor) // stages
        kv = settings.kv_cache_bytes or max(least, limit - weights - slots - RESERVE_BYTES)
        yield Holding(
            part=part.name,
            device=gpu_name(index),
            weights=weights,
            kv_cache=kv,
            slots=slots,
            runtime=RESERVE_BYTES,
            kv_tokens=kv // max(1, kv_token),
            limit=limit,
        )


def _trainer(part: Part, settings: TrainerSettings, gpu_bytes: Mapping[int, int]) -> Iterator[Holding]:
    base, shape, item = part.base, part.base.shape, part.item_bytes
    adapter = shape.lora_parameters(base.max_rank)
    weights = item * _rank_parameters(shape, settings)
    if not part.gpus or settings.ranks > 1:  # one GPU has products with wide results
        weights += wide_head_bytes(shape, item)
    resident = settings.resident_policies * RESIDENT_BYTES * adapter
    elsewhere = (settings.host_policies * HOST_BYTES + _WRITTEN * RESIDENT_BYTES) * adapter
    stacked = settings.resident_policies * _STACKED_BYTES * adapter
    runtime = TRAINER_RUNTIME_BYTES * settings.ranks
    if not part.gpus:
        yield Holding(
            part=part.name,
            device=HOST,
            weights=weights * settings.ranks,
            policies=resident + elsewhere,
            activations=_pass_bytes(base, item, settings, free_bytes=None) * settings.ranks,
            runtime=runtime,
        )
        return
    # Of several ranks the policies are in the memory of the first one's machine.
    on_host = resident if settings.ranks > 1 else 0
    yield Holding(part=part.name, device=HOST, policies=elsewhere + on_host, runtime=runtime)
    for index in part.gpus:
        limit = int((settings.memory_share or 1.0) * gpu_bytes.get(index, 0))
        policies = stacked + resident - on_host
        free = max(0, limit - weights - policies - RESERVE_BYTES)
        yield Holding(
            part=part.name,
            device=gpu_name(index),
            weights=weights,
            policies=policies,
            activations=_pass_bytes(base, item, settings, free_bytes=free),
            runtime=RESERVE_BYTES,
            limit=limit,
        )


def _pass_bytes(base: PlannedBase, item: int, settings: TrainerSettings, *, free_bytes: int | None) -> int:
    """Return the peak bytes of a full micro-batch, cut as the trainer cuts it."""
    numbers = base.shape.token_numbers
    again = recomputes(
        settings.checkpointing, numbers, item_bytes=item, context=base.max_context, free_bytes=free_bytes
    )
    kept = numbers.kept_bytes(item, recomputed=again)
    tokens = settings.microbatch_tokens or fitting_tokens(kept, free_bytes=free_bytes)
    return pass_bytes(base.shape, item, tokens, recomputed=again, free_bytes=free_bytes)


def _rank_parameters(shape: ModelShape, settings: TrainerSettings) -> int:
    """Return how many of the base's parameters one rank holds."""
    if settings.sharding == "tensor":
        return shape.parameters // settings.ranks
    layout = {"zero3": "fsdp"}.get(settings.sharding, settings.sharding)
    return trainer_layouts(shape, settings.ranks).get(layout, shape.parameters)
