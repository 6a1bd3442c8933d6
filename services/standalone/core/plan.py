"""The services of a stack, their needs, and their environment."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mint_client.core.tracking import TrackerKind
from mint_common.errors import SettingInvalid
from mint_common.settings.read import nearest
from services.standalone.core.parts import StackPart

EXTERNAL = ("MINT_POSTGRES_DSN", "MINT_NATS_URL", "MINT_BLOBS_URL")
PASSED_ON = ("MINT_BLOBS_", "MINT_TELEMETRY_", "MINT_ALGORITHMS_", "MINT_HTTP_")
SHARED_PARTS = ("registry", "rollout", "gateway")
"""The parts that every base needs to answer and train."""
OWN_TENANT = "default"
"""The tenant of a stack's own key."""
SERVICES = ("registry", "trainer", "loader", "rollout", "gateway")


DType = Literal["auto", "float32", "bfloat16"]
"""Dtype of the bases' weights in trainers and engines; auto uses their own settings."""


PartEnv = Mapping[str, str]
"""Variables of a part beyond those of all parts of its kind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BasePlan:
    """A base's engines and trainers, one of each at least."""

    engines: tuple[PartEnv, ...] = ({},)
    trainers: tuple[PartEnv, ...] = ({},)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerPlan:
    """A tracker that gets the stack's jobs; ``at`` is its URL or folder, empty: its usual one."""

    to: TrackerKind
    at: str = ""
    project: str = "mint"


def plan_alike(*, engines: int = 1, dtype: DType = "auto") -> BasePlan:
    """Return a trainer and a number of engines, all in one dtype."""

    def env(service: str) -> PartEnv:
        return {} if dtype == "auto" else {f"MINT_{service}_DTYPE": dtype}

    return BasePlan(engines=(env("LOADER"),) * engines, trainers=(env("TRAINER"),))


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseAt:
    """A base, its folder, and its parts; one that is not ``trainable`` has no trainer, one that is not
    ``served`` no engine."""

    name: str
    folder: str
    plan: BasePlan = field(default_factory=BasePlan)
    trainable: bool = True
    served: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses of embedded or external servers."""

    postgres_dsn: str
    nats_url: str
    blobs: Mapping[str, str]
    embedded: tuple[str, ...]
    """Servers that this stack starts, of ``postgres`` and ``nats``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSecrets:
    """Secrets of a state folder, created once."""

    internal_token: str
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicePart(StackPart):
    """A service process: ``python -m services.<service>`` with ``env``."""

    service: str
    env: Mapping[str, str] = field(default_factory=dict)


def port_names(bases: Sequence[BaseAt]) -> tuple[str, ...]:
    """Return all names that need a port, including the embedded parts."""
    owned = [name for base in bases for name in parts_of(base)]
    return ("gateway", "postgres", "nats", "registry", "rollout", *owned)


def parts_of(base: BaseAt) -> tuple[str, ...]:
    """Return the names of a base's parts."""
    return (*_trainers(base), *_loaders(base))


def _trainers(base: BaseAt) -> list[str]:
    return _numbered(f"trainer-{base.name}", base.plan.trainers) if base.trainable else []


def _loaders(base: BaseAt) -> list[str]:
    return _numbered(f"loader-{base.name}", base.plan.engines) if base.served else []


def _numbered(first: str, planned: Sequence[PartEnv]) -> list[str]:
    return [first, *(f"{first}-{number}" for number in range(2, len(planned) + 1))]


def plan_services(
    bases: Sequence[BaseAt],
    addresses: Addresses,
    secrets: StackSecrets,
    *,
    ports: Mapping[str, int],
    cache_folder: str,
    environments_folder: str,
    overrides: Mapping[str, str],
    services: Collection[str] = SERVICES,
    has_wandb: bool = False,
) -> tuple[ServicePart, ...]:
    """Return the parts of some services. ``overrides`` are the user's own ``MINT_*`` variables.

    ``has_wandb`` says that a tracker records the jobs of the stack's own tenant at W&B.

    Raises SettingInvalid for an override of a setting that the stack decides.
    """
    of_bases = [part for base in bases for part in _parts_of(base, cache_folder)]
    bootstrap, tokenizers = {"MINT_REGISTRY_BOOTSTRAP_KEY": secrets.api_key}, {}
    if "MINT_GATEWAY_TOKENIZERS" not in overrides:
        # Clients on this machine open the same folder; for others the user sets it.
        folders = ",".join(f"{base.name}={base.folder}" for base in bases)
        tokenizers = {"MINT_GATEWAY_TOKENIZERS": folders}
    recorded = has_wandb and "MINT_ROLLOUT_WANDB_TENANTS" not in overrides
    tenants = {"MINT_ROLLOUT_WANDB_TENANTS": OWN_TENANT} if recorded else {}
    environments = {"MINT_ROLLOUT_ENVIRONMENTS_DIR": environments_folder}
    called = tuple(part.name for part in of_bases)
    planned = [
        ServicePart(name="registry", service="registry", needs=addresses.embedded, env=bootstrap),
        *of_bases,
        ServicePart(name="rollout", service="rollout", needs=("registry",), env={**tenants, **environments}),
        ServicePart(
            name="gateway", service="gateway", needs=("registry", "rollout"), calls=called, env=tokenizers
        ),
    ]
    kept = [part for part in planned if part.service in services]
    names = {part.name for part in kept} | set(addresses.embedded)
    shared = _shared_environment(bases, addresses, secrets, ports)
    return tuple(
        replace(
            part,
            needs=tuple(need for need in part.needs if need in names),
            calls=tuple(called for called in part.calls if called in names),
            env=_environment(part, ports[part.name], shared, overrides),
        )
        for part in kept
    )


def start_in_turn(
    parts: Sequence[ServicePart], gpus: Mapping[str, Collection[int]]
) -> tuple[ServicePart, ...]:
    """Return parts that follow one another on each GPU, engines before trainers. ``gpus`` by part.

    An engine sizes its KV cache by the free memory before and after its first step, so it counts what another
    part allocates meanwhile as its own (vllm/utils/mem_utils.py).
    """
    before: dict[str, tuple[str, ...]] = {}
    last: dict[int, str] = {}
    for part in sorted(parts, key=lambda part: part.service):  # loader, then trainer
        own = gpus.get(part.name, ())
        before[part.name] = tuple(dict.fromkeys(last[gpu] for gpu in own if gpu in last))
        last |= dict.fromkeys(own, part.name)
    return tuple(replace(part, follows=before[part.name]) for part in parts)


def _check_parts(base: BaseAt) -> None:
    """Raise SettingInvalid for settings of a trainer or an engine that a base does not have."""
    lost = [variable for env in base.plan.trainers for variable in env if variable != "MINT_TRAINER_DTYPE"]
    if lost and not base.trainable:
        raise SettingInvalid(name=lost[0], problem=f"the base {base.name} is not trained")
    lost = [variable for env in base.plan.engines for variable in env if variable != "MINT_LOADER_DTYPE"]
    if lost and not base.served:
        raise SettingInvalid(name=lost[0], problem=f"the base {base.name} is only trained")


def _parts_of(base: BaseAt, cache_folder: str) -> Iterator[ServicePart]:
    """Yield a base's trainers and its engines, if any."""
    _check_parts(base)
    for name, env in zip(_trainers(base), base.plan.trainers, strict=base.trainable):
        yield ServicePart(
            name=name,
            service="trainer",
            needs=("registry",),
            ready_seconds=300.0,
            env={**env, "MINT_TRAINER_BASE_DIR": base.folder},
        )
    for name, env in zip(_loaders(base), base.plan.engines, strict=base.served):
        own = {
            "MINT_LOADER_BASE_DIR": base.folder,
            "MINT_LOADER_ENGINE_ID": f"engine-{name.removeprefix('loader-')}",
            "MINT_LOADER_CACHE_DIR": f"{cache_folder}/{name}",
        }
        yield ServicePart(
            name=name,
            service="loader",
            needs=("registry",),
            ready_seconds=600.0,
            stop_seconds=20.0,
            env={**env, **own},
        )


def _shared_environment(
    bases: Sequence[BaseAt],
    addresses: Addresses,
    secrets: StackSecrets,
    ports: Mapping[str, int],
) -> dict[str, str]:
    def urls(names: Iterable[str]) -> str:
        return ",".join(f"http://127.0.0.1:{ports[name]}" for name in names)

    return {
        "MINT_POSTGRES_DSN": addresses.postgres_dsn,
        "MINT_NATS_URL": addresses.nats_url,
        **addresses.blobs,
        "MINT_INTERNAL_TOKEN": secrets.internal_token,
        "MINT_PEERS_REGISTRY_URL": f"http://127.0.0.1:{ports['registry']}",
        "MINT_PEERS_ROLLOUT_URL": f"http://127.0.0.1:{ports['rollout']}",
        "MINT_PEERS_TRAINER_URLS": urls(name for base in bases for name in _trainers(base)),
        "MINT_PEERS_LOADER_URLS": urls(name for base in bases for name in _loaders(base)),
    }


def _environment(
    part: ServicePart, port: int, shared: Mapping[str, str], overrides: Mapping[str, str]
) -> dict[str, str]:
    prefix = f"MINT_{part.service.upper()}_"
    own = {**part.env, f"{prefix}HTTP_PORT": str(port)}
    decided = own.keys() | {
        name for name in shared if not name.startswith(PASSED_ON) and name not in EXTERNAL
    }
    for name in overrides:
        if name in decided:
            raise SettingInvalid(name=name, problem="`mint up` or its file decides this one; unset it")
    passed = {name: value for name, value in overrides.items() if name.startswith((prefix, *PASSED_ON))}
    return {**passed, **shared, **own}


def check_overrides(overrides: Mapping[str, str]) -> None:
    """Raise SettingInvalid naming the ``MINT_*`` variables that no part would read."""
    known = (*PASSED_ON, *(f"MINT_{service.upper()}_" for service in SERVICES))
    unread = [name for name in overrides if name not in EXTERNAL and not name.startswith(known)]
    if unread:
        near = sorted({found for name in unread if (found := _near_name(name, known))})
        hint = f" (the nearest: {', '.join(near)})" if near else ""
        problem = f"no part of the stack reads it; correct it{hint}, or unset it"
        raise SettingInvalid(name=", ".join(unread), problem=problem)


def _near_name(name: str, prefixes: Sequence[str]) -> str:
    """Return the external setting or the prefix of names that was probably meant, or ""."""
    begun = nearest("_".join(name.split("_")[:2]) + "_", prefixes)
    return nearest(name, EXTERNAL) or (f"{begun}..." if begun else "")
