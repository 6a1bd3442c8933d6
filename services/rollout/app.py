"""The composition of the rollout service."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI

from mint_common.algorithms import open_algorithms
from mint_common.blobs.open import open_blobs
from mint_common.bounds import DAY_SECONDS
from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Bus
from mint_common.client.directory import EngineDirectory
from mint_common.client.http import InternalHttp
from mint_common.client.members import FleetWatch
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer_directory import TrainerDirectory
from mint_common.events import JobFinished, PolicyRemoved
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_routes import include_routes
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.judge import EngineJudge
from mint_common.runtime.graders.open import open_graders
from mint_common.runtime.held_folder import hold_folder
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.own_address import own_url
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.runtime.service import run_service, serve_socket
from mint_common.tenant_budget import TenantBudget
from services.rollout import metrics
from services.rollout.adapters.agent_waves_postgres import PostgresAgentWaves
from services.rollout.adapters.database_clock import FOLLOW_SECONDS, DatabaseClock
from services.rollout.adapters.door_socket import open_door_socket
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.environments.workers import open_installed_environments
from services.rollout.adapters.erasures_postgres import PostgresErasures
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.file_uploads_postgres import PostgresFileUploads
from services.rollout.adapters.files_postgres import PostgresFiles
from services.rollout.adapters.handover_postgres import PostgresHandover
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.local_rows import LocalRows
from services.rollout.adapters.peers import RegistryRecords, Trainers
from services.rollout.adapters.rows_check import RowsCheckProcess
from services.rollout.adapters.siblings import Siblings
from services.rollout.adapters.spool import open_spool
from services.rollout.adapters.tasks.catalog import installed_families
from services.rollout.adapters.tenant_jobs_postgres import PostgresTenantJobs
from services.rollout.adapters.workers.pool import WorkerLimits
from services.rollout.adapters.workers.tasks import BoundedTasks, open_tasks
from services.rollout.core.environment import Environments
from services.rollout.core.quotas import JobQuotas
from services.rollout.handlers.agent_calls import AgentCalls
from services.rollout.handlers.agents import Agents
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.dispatching import WAVES, dispatch
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.environments_by_kind import EnvironmentsByKind
from services.rollout.handlers.episode_scores import EpisodeScores
from services.rollout.handlers.erasure import Eraser
from services.rollout.handlers.evaluation_requests import EvaluationMaker
from services.rollout.handlers.evaluations import EvaluationHandler
from services.rollout.handlers.file_job_requests import FileJobMaker
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.file_scores import FileScores
from services.rollout.handlers.file_uploads import UploadKeeper
from services.rollout.handlers.files import FileKeeper
from services.rollout.handlers.first_rows import FirstRows
from services.rollout.handlers.job_admission import JobAdmission
from services.rollout.handlers.job_scores import JobScores
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.promotions import Promotions
from services.rollout.handlers.rollouts import Rollouts
from services.rollout.handlers.row_rendering import RowRenderer
from services.rollout.handlers.task_job_requests import TaskJobMaker
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.watchdog import Watchdog
from services.rollout.handlers.wave_parts import (
    JUDGE_SECONDS,
    MAX_ERROR_SHARE,
    REQUESTS_IN_FLIGHT,
    make_waves,
)
from services.rollout.http.context import TenantParts
from services.rollout.http.door import DoorCalls, door_http
from services.rollout.http.jobs import job_routes
from services.rollout.http.routes import TENANT_ROUTERS
from services.rollout.http.tasks import task_routes
from services.rollout.ports import Tasks
from services.rollout.settings import RolloutSettings

SCHEMA = "rollout"
DRAWS_IN_HAND = 8
"""Steps whose prompts are drawn at a time; workers of tasks and copies of files bound them further."""
KEEP_RUN_DAYS = 400
"""Retention of an evaluation run after its end."""
TRIAL_SECONDS = 20.0
"""Time that a trial of a grader waits for engines that are full or away."""
SPOOLED_FILES = 16
"""Spool capacity in largest files. One tenant may use half."""
TENANT_JOBS, TENANT_PREVIEWS = 1000, 1
"""Maximum open jobs of a tenant, and previews at a time: a base's trainer renders one after the other."""
COMPARED_AT_ONCE = 2
"""Comparisons that are computed at a time, one of a tenant: each holds the rows of two runs."""
SWEEP_SECONDS = 450.0
"""Interval of the sweeps: files, uploads, copies, old runs, and promotions whose event was lost."""
Work = Callable[[], Awaitable[None]]
MIGRATIONS = "services.rollout.adapters.migrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutApp:
    """An assembled service: its HTTP application and its background work."""

    http: FastAPI
    background: Sequence[Work]


@asynccontextmanager
async def open_rollout(
    settings: RolloutSettings, others: Environments | None = None
) -> AsyncIterator[RolloutApp]:
    """Connect and assemble, with ``others`` in place of the installed environments where they are given.

    Leaving closes everything in the opposite order.
    """
    algorithms = open_algorithms(settings.algorithms.custom)
    metrics.begin_algorithms(algorithms)
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings.postgres.dsn, schema=SCHEMA)
        stack.push_async_callback(pool.close)
        await migrate(pool, schema=SCHEMA, package=MIGRATIONS)
        clock = DatabaseClock(pool)
        await clock.follow()
        bus = await connect_nats(settings.nats.url, replicas=settings.nats.replicas, name="rollout")
        stack.push_async_callback(bus.close)
        blobs = await open_blobs(settings.blobs)
        stack.push_async_callback(blobs.close)
        directory = TrainerDirectory(settings.peers.trainer_urls, token=settings.internal.token)
        stack.push_async_callback(directory.aclose)
        folder = await asyncio.to_thread(hold_folder, "mint-rows-")
        stack.push_async_callback(asyncio.to_thread, folder.remove)
        registry_http = InternalHttp(
            settings.peers.registry_url, token=settings.internal.token, peer="the registry"
        )
        stack.push_async_callback(registry_http.close)
        catalog = RegistryClient(registry_http)
        engines = EngineDirectory(
            settings.peers.loader_urls, token=settings.internal.token, check_served=catalog.check_served
        )
        stack.push_async_callback(engines.aclose)
        limits = WorkerLimits(
            workers=settings.tasks.task_workers,
            call_seconds=settings.tasks.task_seconds,
            memory_bytes=settings.tasks.task_memory_bytes,
        )
        tasks = await stack.enter_async_context(open_tasks(installed_families(), limits))
        judge = EngineJudge(engines, catalog.resolve, clock, limit_seconds=JUDGE_SECONDS)
        graders = await stack.enter_async_context(open_graders(settings.graders, judge, service="rollout"))

        socket = await stack.enter_async_context(open_door_socket())
        installed = await stack.enter_async_context(
            nullcontext(others) if others else open_installed_environments(settings.environments, socket)
        )
        waves, stall_seconds = settings.waves, settings.waves.stall_seconds
        sampler, trainers, registry = EngineSampler(engines), Trainers(directory), RegistryRecords(catalog)
        files = LocalRows(blobs, folder.path, limit_bytes=waves.file_copies_bytes)
        rows, agents = FileRows(files), Agents(clock)
        runs, jobs, ledger = PostgresEvaluationRuns(pool), PostgresJobs(pool), PostgresLedger(pool, clock)
        commits = Commits(jobs=jobs, ledger=ledger, clock=clock)
        of_jobs = JobHandlers(
            commits=commits,
            blobs=blobs,
            tasks=tasks,
            environments=EnvironmentsByKind(installed, agents),
            rows=rows,
            policies=registry,
            scores=registry,
            draws=event_gate(DRAWS_IN_HAND, what="the draws of one tenant's prompts"),
        )
        of_waves, door = make_waves(
            commits,
            blobs=blobs,
            tasks=tasks,
            rows=rows,
            environments=EnvironmentsByKind(installed, agents),
            trainers=trainers,
            graders=graders,
            sampler=sampler,
            chat=EngineChat(engines),
            algorithms=algorithms,
            socket=socket,
            stall_seconds=stall_seconds,
        )
        run_requests = EngineRequests(clock, in_flight=REQUESTS_IN_FLIGHT // 4)
        evaluations = EvaluationHandler(
            runs=runs,
            tasks=tasks,
            sampler=sampler,
            files=FileScores(
                files=rows,
                renderer=RowRenderer(trainers=trainers, requests=run_requests),
                sampler=sampler,
                graders=graders,
                requests=run_requests,
            ),
            episodes=EpisodeScores(
                episodes=of_waves.environments.episodes, max_faults=of_waves.environments.max_faults
            ),
            scores=registry,
            requests=run_requests,
            clock=clock,
            stall_seconds=stall_seconds,
            error_share=MAX_ERROR_SHARE,
        )
        watchdog = Watchdog(
            commits=commits,
            start_next=of_jobs.start_next,
            oldest_waiting=partial(bus.oldest_waiting, durable=WAVES),
            stall_seconds=stall_seconds,
        )
        eraser = Eraser(
            erasures=PostgresErasures(pool),
            records=trainers,
            blobs=blobs,
            clock=clock,
            keep_seconds=settings.erasure.keep_waves_days * DAY_SECONDS,
        )
        callers_tasks = BoundedTasks(tasks, at_once=max(1, settings.tasks.task_workers // 2))
        admission = JobAdmission(
            registry=catalog,
            jobs=PostgresTenantJobs(pool, ledger, clock),
            store=jobs,
            quotas=JobQuotas(
                open_jobs=TENANT_JOBS, trainer_seconds=settings.quotas.trainer_seconds_per_day or math.inf
            ),
            trainers=directory,
            engines=engines,
            algorithms=algorithms,
            clock=clock,
        )
        opening = open_tenant_parts(
            settings, admission, of_jobs, (agents, door), tasks=callers_tasks, sampler=sampler
        )
        parts = await stack.enter_async_context(opening)
        http = create_http(
            title="MinT rollout",
            service="rollout",
            internal_token=settings.internal.token,
            ready=lambda: True,
            max_body_bytes=None,  # `BodyRoute` reads bodies
        )
        http.state.parts = parts
        include_routes(
            http.router, task_routes(callers_tasks), job_routes(of_jobs, directory), *TENANT_ROUTERS
        )
        short, work = dispatch(of_jobs, of_waves, bus, clock)
        background: tuple[Work, ...] = (
            OutboxRelay(pool, bus, clock).run,
            partial(run_periodically, clock.follow, name="clock", every_seconds=FOLLOW_SECONDS, clock=clock),
            short.run,
            partial(of_waves.run, work),
            watchdog.run,
            of_waves.environments.episodes.turns.run,
            evaluations.run,
            JobScores(commits=commits, runs=runs).run,
            eraser.run,
            partial(engines.follow, bus),
            *FleetWatch(catalog, engines, directory, clock).work(bus),
            partial(serve_socket, door_http(door, parts.door_calls), door.socket),
            *tenant_work(parts, bus, eraser, copies=files),
        )
        yield RolloutApp(http=http, background=background)


@asynccontextmanager
async def open_tenant_parts(
    settings: RolloutSettings,
    admission: JobAdmission,
    of_jobs: JobHandlers,
    episodes: tuple[Agents, ModelDoor],
    *,
    tasks: Tasks,
    sampler: EngineSampler,
) -> AsyncIterator[TenantParts]:
    """Assemble what tenants' routes call; leaving removes the spool and ends the trials of graders."""
    agents, door = episodes
    catalog, trainers, clock = admission.registry, admission.trainers, admission.clock
    async with AsyncExitStack() as stack:
        # Of their own: each file that is stored holds a connection, which a step of a job would wait for.
        pool = await open_pool(settings.postgres.dsn, schema=SCHEMA)
        stack.push_async_callback(pool.close)
        runs = PostgresEvaluationRuns(pool)
        spool = await asyncio.to_thread(open_spool, limit_bytes=SPOOLED_FILES * settings.file_bytes)
        stack.push_async_callback(spool.close)
        keeper = FileKeeper(
            files=PostgresFiles(pool, clock),
            blobs=of_jobs.blobs,
            spool=spool,
            rows=RowsCheckProcess(),
            clock=clock,
            max_file_bytes=settings.file_bytes,
            tenant_bytes=settings.files_bytes_per_tenant,
        )
        previewing = TenantBudget(what="your tenant's previews", limit=TENANT_PREVIEWS)
        first_rows = FirstRows(keeper=keeper, trainers=trainers, previewing=previewing)
        judge = EngineJudge(admission.engines, catalog.resolve, clock, limit_seconds=TRIAL_SECONDS)
        # Sandboxes of their own: a trial does not wait for the samples of jobs.
        trials = await stack.enter_async_context(open_graders(settings.graders, judge, service="rollout"))
        siblings = Siblings(token=settings.internal.token)
        stack.push_async_callback(siblings.close)
        url = own_url(settings.http_host, settings.http_port, towards=settings.peers.registry_url)
        agent_waves = PostgresAgentWaves(pool, clock, url=url)
        yield TenantParts(
            of_jobs=of_jobs,
            admission=admission,
            on_tasks=TaskJobMaker(
                admission=admission, tasks=tasks, environments=of_jobs.environments, sampler=sampler
            ),
            on_files=FileJobMaker(
                admission=admission,
                keeper=keeper,
                graders=trials,
                first_rows=first_rows,
                wandb_tenants=settings.recorded_tenants,
            ),
            keeper=keeper,
            uploads=UploadKeeper(uploads=PostgresFileUploads(pool, clock), keeper=keeper),
            runs=runs,
            evaluations=EvaluationMaker(
                admission=admission,
                runs=runs,
                tasks=tasks,
                environments=of_jobs.environments,
                keeper=keeper,
                graders=trials,
                trainers=trainers,
            ),
            rollouts=Rollouts(
                jobs=admission.store,
                blobs=of_jobs.blobs,
                chat=EngineChat(admission.engines),
                reading=FairGate(COMPARED_AT_ONCE, limit=1),
            ),
            trials=trials,
            trainers=trainers,
            previewing=previewing,
            comparing=FairGate(COMPARED_AT_ONCE, limit=1),
            handover=PostgresHandover(pool, clock),
            agents=AgentCalls(
                agents=agents,
                door=door,
                jobs=admission.store,
                waves=agent_waves,
                siblings=siblings,
                clock=clock,
            ),
            door_calls=DoorCalls(),
        )


def tenant_work(parts: TenantParts, bus: Bus, eraser: Eraser, *, copies: LocalRows) -> list[Work]:
    """Return the background work: sweeps, promotions of results, and erasures of removed policies."""
    clock, runs = parts.clock, parts.runs
    promotions = Promotions(registry=parts.registry, jobs=parts.tenant_jobs, waves=parts.jobs)
    ended = Dispatcher(bus=bus, ledger=None, durable="rollout-promotions", clock=clock, concurrency=4)
    ended.on(JobFinished, promotions.on_job_finished, given_up=promotions.on_given_up)
    ended.on(PolicyRemoved, eraser.on_policy_removed)
    sweeps = {
        "files": parts.keeper.sweep,
        "uploads": parts.uploads.sweep,
        "promotions": promotions.sweep,
        "copies of files": copies.remove_unused,
        "evaluation runs": lambda: runs.prune(before=clock.now() - KEEP_RUN_DAYS * DAY_SECONDS),
    }
    return [
        ended.run,
        parts.agents.run,
        *(
            partial(run_periodically, sweep, name=name, every_seconds=SWEEP_SECONDS, clock=clock)
            for name, sweep in sweeps.items()
        ),
    ]


async def run(settings: RolloutSettings) -> None:
    """Serve until stopped."""
    async with open_rollout(settings) as rollout:
        await run_service(rollout.http, settings, rollout.background)
