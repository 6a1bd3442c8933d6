"""The trainers and engines of a stack, from their settings and the bases' files. Starts nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mint_common.adapters_format import BASE_FILE, read_base_facts
from services.loader.settings import LoaderSettings
from services.standalone.adapters.bases import DEFAULT_MAX_RANK, base_at, shape_of
from services.standalone.core.base_sources import usual_name
from services.standalone.core.plan import (
    Addresses,
    BaseAt,
    BasePlan,
    ServicePart,
    StackSecrets,
    plan_services,
    port_names,
)
from services.standalone.core.stack_memory import Part, PlannedBase
from services.standalone.settings import check_settings, read_part
from services.trainer.settings import TrainerSettings

_NOWHERE = Addresses(
    postgres_dsn="postgresql:///none",
    nats_url="nats://127.0.0.1:1",
    blobs={"MINT_BLOBS_URL": "file:///none"},
    embedded=(),
)


def read_parts(
    folder: Path, plans: Mapping[str, BasePlan], *, overrides: Mapping[str, str], gpus: Sequence[int]
) -> list[Part]:
    """Return the trainers and engines of a stack file on a machine with some GPUs.

    Raises SettingInvalid for a setting that a part would refuse, and what `shape_of` raises.
    """
    bases = {usual_name(name): _base(folder, name) for name in plans}
    places = [_place(folder, usual_name(name), plan) for name, plan in plans.items()]
    services = plan_services(
        places,
        _NOWHERE,
        StackSecrets(internal_token="-" * 32, api_key="-" * 32),  # no part can start with it
        ports=dict.fromkeys(port_names(places), 1),
        cache_folder="/none",
        environments_folder="/none",
        overrides=overrides,
    )
    check_settings(services)
    chosen = gpus_of_parts(services, gpus)
    parts = []
    for service in services:
        settings = read_part(service)
        if isinstance(settings, LoaderSettings | TrainerSettings):
            base = bases[settings.base_dir.name]
            parts.append(Part(name=service.name, gpus=chosen[service.name], base=base, settings=settings))
    return parts


def gpus_of_parts(services: Sequence[ServicePart], gpus: Sequence[int]) -> Mapping[str, tuple[int, ...]]:
    """Return the GPUs that each trainer and engine uses, on a machine with some."""
    return {
        service.name: _chosen(own, _seen(service, gpus))
        for service in services
        if isinstance(own := read_part(service), LoaderSettings | TrainerSettings)
    }


def _place(folder: Path, name: str, plan: BasePlan) -> BaseAt:
    if not (folder / name / BASE_FILE).is_file():
        return BaseAt(name=name, folder=f"/{name}", plan=plan)
    return replace(base_at(f"/{name}", name, read_base_facts(folder / name)), plan=plan)


def _base(folder: Path, name: str) -> PlannedBase:
    place = folder / usual_name(name)
    shape = shape_of(folder, name)
    if not (place / BASE_FILE).is_file():
        return PlannedBase(shape=shape, max_rank=DEFAULT_MAX_RANK, max_context=shape.max_context)
    facts = read_base_facts(place)
    files = sum(file.stat().st_size for file in place.glob("*.safetensors"))
    weights = files if facts.quantization else None
    return PlannedBase(shape=shape, max_rank=facts.max_rank, max_context=facts.max_context, weights=weights)


def _chosen(settings: LoaderSettings | TrainerSettings, seen: tuple[int, ...]) -> tuple[int, ...]:
    """Return the GPUs that a part uses, among those that it sees."""
    if isinstance(settings, LoaderSettings):
        return seen[: settings.tensor_parallel * settings.pipeline_parallel]
    if settings.device == "cpu":
        return ()
    first = int(settings.device.removeprefix("cuda:")) if ":" in settings.device else 0
    return seen[first : first + settings.ranks]


def _seen(service: ServicePart, gpus: Sequence[int]) -> tuple[int, ...]:
    """Return the GPUs that a part sees: those of the file, else all."""
    told = service.env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return tuple(gpus)
    return tuple(int(one) for one in told.split(",") if one)
