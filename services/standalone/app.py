"""Composes a stack: the embedded parts, the services, and their supervisor."""

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass

import httpx

from mint_client.core.state import TRACKER_PART
from mint_client.core.tracking import TrackerKind
from mint_common.runtime.clock import SystemClock
from mint_common.waiting import cancel_all
from services.standalone.adapters.gpus import usable_gpus
from services.standalone.adapters.launch import Launch, free_port
from services.standalone.adapters.nats import nats_launch
from services.standalone.adapters.ports_in_use import holder, is_free
from services.standalone.adapters.postgres import postgres_launch, prepare_postgres
from services.standalone.adapters.processes import LocalProcesses, Sentinel
from services.standalone.adapters.run_file import RunFile
from services.standalone.adapters.stack_parts import gpus_of_parts
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.core.parts import StackPart
from services.standalone.core.plan import (
    SERVICES,
    Addresses,
    BaseAt,
    ServicePart,
    TrackerPlan,
    plan_services,
    port_names,
    start_in_turn,
)
from services.standalone.core.refusals import GatewayPortBusyError
from services.standalone.core.state import DEFAULT_GATEWAY_PORT, StackState, assign_ports
from services.standalone.settings import StandaloneSettings, check_settings, with_time_to_stop
from services.standalone.supervisor import Observer, Supervisor


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running stack."""

    supervisor: Supervisor
    gateway_url: str
    api_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """All decisions made before the first process starts."""

    parts: tuple[StackPart, ...]
    launches: Mapping[str, Launch]
    ports: Mapping[str, int]


@contextlib.asynccontextmanager
async def open_stack(
    folder: StateFolder,
    bases: Sequence[BaseAt],
    *,
    port: int | None,
    settings: StandaloneSettings,
    observers: Sequence[Observer] = (),
    services: Collection[str] = SERVICES,
    trackers: Sequence[TrackerPlan] = (),
) -> AsyncIterator[Stack]:
    """Start a stack and stop it at the end of the block; `Supervisor.all_ready` waits until it is up.

    Raises StackRunningError and GatewayPortBusyError before anything starts, and LocalFailureError when a
    part never became ready.
    """
    with folder.taken() as lock:
        blueprint = await _plan_stack(
            folder, bases, port=port, settings=settings, services=services, trackers=trackers
        )
        supervised = run_blueprint(
            blueprint,
            folder,
            lock=lock,
            environment=settings.inherited,
            observers=observers,
        )
        async with supervised as supervisor:
            yield Stack(
                supervisor=supervisor,
                gateway_url=_gateway_url(blueprint.ports),
                api_key=folder.secrets().api_key,
            )


@contextlib.asynccontextmanager
async def run_blueprint(
    blueprint: Blueprint,
    folder: StateFolder,
    *,
    lock: int,
    environment: Mapping[str, str],
    observers: Sequence[Observer] = (),
) -> AsyncIterator[Supervisor]:
    """Supervise the processes of a blueprint inside the block; the caller holds the folder's ``lock``."""

    clock = SystemClock()
    run_file = RunFile(folder, blueprint.ports, gateway_url=_gateway_url(blueprint.ports))
    async with httpx.AsyncClient(trust_env=False) as http:
        with contextlib.closing(Sentinel(lock)) as sentinel:
            processes = LocalProcesses(
                blueprint.launches,
                environment=environment,
                log_folder=folder.logs,
                sentinel=sentinel,
                http=http,
            )
            supervisor = Supervisor(
                blueprint.parts,
                processes,
                clock=clock,
                rng=random.Random(),
                observers=(run_file, *observers),
            )
            running = asyncio.create_task(supervisor.run())
            keeping = asyncio.create_task(run_file.keep_current(clock))
            try:
                yield supervisor
            finally:
                supervisor.stop()
                try:
                    await running
                finally:
                    await cancel_all(keeping)


async def _plan_stack(
    folder: StateFolder,
    bases: Sequence[BaseAt],
    *,
    port: int | None,
    settings: StandaloneSettings,
    services: Collection[str] = SERVICES,
    trackers: Sequence[TrackerPlan] = (),
) -> Blueprint:
    ports = _choose_ports(folder, bases, port)
    folder.write_state(StackState(ports=ports, bases=tuple(base.name for base in bases)))
    embedded, addresses = await _embedded(folder, ports, settings)
    planned = plan_services(
        bases,
        addresses,
        folder.secrets(),
        ports=ports,
        cache_folder=str(folder.cache),
        environments_folder=str(folder.environments),
        overrides=settings.overrides,
        services=services,
        has_wandb=any(each.to is TrackerKind.WANDB for each in trackers),
    )
    check_settings(planned)
    gpus = await asyncio.to_thread(usable_gpus)
    planned = start_in_turn(planned, gpus_of_parts(planned, [gpu.index for gpu in gpus]))
    planned = tuple(with_time_to_stop(each) for each in planned)
    started = {each.name: _service_launch(folder, each, ports[each.name]) for each in planned}
    recording = _tracker_launches(folder, trackers, gateway_url=_gateway_url(ports))
    optional = [StackPart(name=name, needs=("gateway",), optional=True) for name in recording]
    return Blueprint(
        parts=(*(StackPart(name=name) for name in embedded), *planned, *optional),
        launches={**embedded, **started, **recording},
        ports=ports,
    )


def _choose_ports(folder: StateFolder, bases: Sequence[BaseAt], port: int | None) -> dict[str, int]:
    remembered = {**folder.read_state().ports, "gateway": gateway_port(folder, port)}
    return assign_ports(port_names(bases), remembered, is_free=is_free, pick=free_port)


def gateway_port(folder: StateFolder, port: int | None) -> int:
    """Return the gateway's port: the given one, else the last one. Raises GatewayPortBusyError."""
    chosen = port or folder.read_state().ports.get("gateway", DEFAULT_GATEWAY_PORT)
    if not is_free(chosen):
        raise GatewayPortBusyError(port=chosen, holder=holder(chosen))
    return chosen


async def _embedded(
    folder: StateFolder, ports: Mapping[str, int], settings: StandaloneSettings
) -> tuple[dict[str, Launch], Addresses]:
    """Prepare Postgres and NATS unless the environment names external ones; return launches and addresses."""
    launches: dict[str, Launch] = {}
    dsn = settings.external("MINT_POSTGRES_DSN")
    if not dsn:
        home = folder.root / "postgres"
        await asyncio.to_thread(prepare_postgres, home)
        launches["postgres"] = postgres_launch(home, ports["postgres"])
        dsn = launches["postgres"].ready_dsn
    bus = settings.external("MINT_NATS_URL")
    if not bus:
        launches["nats"] = nats_launch(folder.root / "nats", ports["nats"])
        bus = launches["nats"].ready_bus
    blobs = {} if settings.external("MINT_BLOBS_URL") else {"MINT_BLOBS_URL": f"file://{folder.blobs}"}
    return launches, Addresses(postgres_dsn=dsn, nats_url=bus, blobs=blobs, embedded=tuple(launches))


def _service_launch(folder: StateFolder, planned: ServicePart, port: int) -> Launch:
    return Launch(
        name=planned.name,
        # -P: files in the working directory must not shadow modules.
        argv=(sys.executable, "-P", "-m", f"services.{planned.service}"),
        env=planned.env,
        ready_url=f"http://127.0.0.1:{port}/readyz",
        alive_url=f"http://127.0.0.1:{port}/healthz",
        folder=folder.root,
    )


def _tracker_launches(
    folder: StateFolder, trackers: Sequence[TrackerPlan], *, gateway_url: str
) -> dict[str, Launch]:
    """Return a launch per tracker: `mint track` at the gateway, with the stack's own key."""
    launches: dict[str, Launch] = {}
    for number, plan in enumerate(trackers, 1):
        usual = f"{TRACKER_PART}{plan.to}"
        name = f"{usual}-{number}" if usual in launches else usual
        command = ["track", "--to", plan.to, "--project", plan.project]
        command += ["--place", str(folder.tracking_file(name)), *(["--at", plan.at] if plan.at else [])]
        launches[name] = Launch(
            name=name,
            argv=(sys.executable, "-P", "-m", "services.standalone", *command),
            env={"MINT_URL": gateway_url, "MINT_API_KEY": folder.secrets().api_key},
            folder=folder.root,
        )
    return launches


def _gateway_url(ports: Mapping[str, int]) -> str:
    return f"http://127.0.0.1:{ports['gateway']}"
