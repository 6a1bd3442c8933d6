"""The parts of a stack that hold a base, as their settings and the bases' files have them. Nothing starts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mint_common.adapters_format import BASE_FILE, read_base_facts
from services.loader.core.execution import CPU_KV_BYTES, reserved_sequences, slot_rank
from services.loader.settings import LoaderSettings
from services.standalone.adapters.bases import DEFAULT_MAX_RANK, shape_of
from services.standalone.core.base_sources import usual_name
from services.standalone.core.model_shape import ModelShape
from services.standalone.core.plan import (
    Addresses,
    BaseAt,
    BasePlan,
    ServicePart,
    StackSecrets,
    plan_services,
    port_names,
)
from services.standalone.core.stack_memory import EngineWork, Part, TrainerWork
from services.standalone.settings import check_settings, read_part
from services.trainer.settings import TrainerSettings

_BATCHED_TOKENS = 2048
"""Of a step of an engine: vLLM's default in the way in which a loader starts it."""
_NOWHERE = Addresses(
    postgres_dsn="postgresql:///none",
    nats_url="nats://127.0.0.1:1",
    blobs={"MINT_BLOBS_URL": "file:///none"},
    embedded=(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A base of the folder, or a model that is yet to be added; ``weights`` of quantized files."""

    shape: ModelShape
    max_rank: int
    max_context: int
    weights: int | None = None


def read_parts(
    folder: Path, plans: Mapping[str, BasePlan], *, overrides: Mapping[str, str], gpus: Sequence[int]
) -> list[Part]:
    """Return trainers and engines of a file on a machine with some GPUs.

    Raises SettingInvalid for a setting that a part would refuse, and what `shape_of` raises.
    """
    bases = {usual_name(name): _base(folder, name) for name in plans}
    places = [
        BaseAt(name=name, folder=f"/{name}", plan=plan, trainable=bases[name].weights is None)
        for name, plan in zip(bases, plans.values(), strict=True)
    ]
    services = plan_services(
        places,
        _NOWHERE,
        StackSecrets(internal_token="-" * 32, api_key="-" * 32),  # nothing starts with it
        ports=dict.fromkeys(port_names(places), 1),
        cache_folder="/none",
        overrides=overrides,
    )
    check_settings(services)
    parts = []
    for service in services:
        settings = read_part(service)
        if isinstance(settings, LoaderSettings):
            parts.append(_engine(service, settings, bases[settings.base_dir.name], gpus))
        elif isinstance(settings, TrainerSettings):
            parts.append(_trainer(service, settings, bases[settings.base_dir.name], gpus))
    return parts


def _base(folder: Path, name: str) -> _Base:
    place = folder / usual_name(name)
    shape = shape_of(folder, name)
    if not (place / BASE_FILE).is_file():
        return _Base(shape=shape, max_rank=DEFAULT_MAX_RANK, max_context=shape.max_context)
    facts = read_base_facts(place)
    files = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    weights = files if facts.quantization else None
    return _Base(shape=shape, max_rank=facts.max_rank, max_context=facts.max_context, weights=weights)


def _engine(service: ServicePart, settings: LoaderSettings, base: _Base, gpus: Sequence[int]) -> Part:
    workers = settings.tensor_parallel * settings.pipeline_parallel
    chosen = _gpus(service, gpus)[:workers]
    usual = "bfloat16" if chosen or base.weights is not None else "float32"
    given = json.loads(settings.engine_args or "{}").get("max_num_batched_tokens", _BATCHED_TOKENS)
    work = EngineWork(
        shape=base.shape,
        dtype=usual if settings.dtype == "auto" else settings.dtype,
        max_rank=base.max_rank,
        slot_rank=slot_rank(base.max_rank),
        slots=settings.slots,
        host_capacity=settings.host_capacity,
        host_bytes=settings.host_bytes,
        context=min(base.max_context, settings.max_context),
        sequences=settings.max_sequences + reserved_sequences(settings.max_sequences),
        batched_tokens=int(given),
        tensor=settings.tensor_parallel,
        stages=settings.pipeline_parallel,
        kv_cache_bytes=settings.kv_cache_bytes or (None if chosen else CPU_KV_BYTES),
        utilization=settings.gpu_memory_utilization,
        weights=base.weights,
    )
    return Part(name=service.part.name, gpus=chosen, work=work)


def _trainer(service: ServicePart, settings: TrainerSettings, base: _Base, gpus: Sequence[int]) -> Part:
    chosen = _gpus(service, gpus)
    if settings.device == "cpu":
        chosen = ()
    elif settings.device.startswith("cuda:"):
        chosen = chosen[int(settings.device.removeprefix("cuda:")) :]
    chosen = chosen[: settings.ranks]
    usual = "bfloat16" if chosen else "float32"
    work = TrainerWork(
        shape=base.shape,
        dtype=usual if settings.dtype == "auto" else settings.dtype,
        max_rank=base.max_rank,
        context=base.max_context,
        resident_policies=settings.resident_policies,
        host_policies=settings.host_policies,
        ranks=settings.ranks,
        sharding=settings.sharding,
        microbatch_tokens=settings.microbatch_tokens,
        checkpointing=settings.checkpointing,
        memory_share=settings.memory_share,
    )
    return Part(name=service.part.name, gpus=chosen, work=work)


def _gpus(service: ServicePart, gpus: Sequence[int]) -> tuple[int, ...]:
    """Return the GPUs that a part sees: those that the file gives it, else all."""
    told = service.env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return tuple(gpus)
    return tuple(int(one) for one in told.split(",") if one)
