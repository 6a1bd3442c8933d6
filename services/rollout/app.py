"""The composition of the rollout service."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI

from mint_common.algorithms import open_algorithms
from mint_common.blobs.open import open_blobs
from mint_common.bus.nats import connect_nats
from mint_common.bus.port import Bus
from mint_common.client.directory import EngineDirectory
from mint_common.client.http import InternalHttp
from mint_common.client.registry import RegistryClient
from mint_common.client.trainer import TrainerDirectory
from mint_common.events import (
    JobFinished,
    JobSubmitted,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
    WaveRequested,
)
from mint_common.runtime.clock import Clock
from mint_common.runtime.dispatch import Dispatcher
from mint_common.runtime.edge import create_http
from mint_common.runtime.edge_routes import include_routes
from mint_common.runtime.graders.judge import EngineJudge
from mint_common.runtime.graders.open import open_graders
from mint_common.runtime.held_folder import hold_folder
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.periodic import run_periodically
from mint_common.runtime.postgres import migrate, open_pool
from mint_common.runtime.relay import OutboxRelay
from mint_common.runtime.service import run_service
from services.rollout import metrics
from services.rollout.adapters.database_clock import FOLLOW_SECONDS, DatabaseClock
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.erasures_postgres import PostgresErasures
from services.rollout.adapters.evaluation_runs_postgres import PostgresEvaluationRuns
from services.rollout.adapters.jobs_postgres import PostgresJobs
from services.rollout.adapters.local_rows import IDLE_SECONDS, LocalRows
from services.rollout.adapters.registry import RegistryRecords
from services.rollout.adapters.tasks.catalog import installed_families
from services.rollout.adapters.trainers import Trainers
from services.rollout.adapters.workers.pool import WorkerLimits
from services.rollout.adapters.workers.tasks import BoundedTasks, open_tasks
from services.rollout.core.quotas import JobQuotas
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.erasure import DAY_SECONDS, Eraser
from services.rollout.handlers.evaluations import EvaluationHandler
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.file_scores import FileScores
from services.rollout.handlers.file_waves import FileWaves
from services.rollout.handlers.graded_samples import GradedSamples, GradingLimits
from services.rollout.handlers.job_scores import JobScores
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.row_rendering import RowRenderer
from services.rollout.handlers.task_waves import TaskWaves
from services.rollout.handlers.tenant_turns import deliveries_of, event_gate
from services.rollout.handlers.watchdog import Watchdog
from services.rollout.handlers.waves import WaveHandlers
from services.rollout.http.evaluations import evaluation_routes
from services.rollout.http.files import file_routes
from services.rollout.http.jobs import job_routes
from services.rollout.http.quotas import quota_routes
from services.rollout.http.tasks import task_routes
from services.rollout.ports import Connection
from services.rollout.settings import QuotaSettings, RolloutSettings

SCHEMA = "rollout"
WAVES = "rollout-waves"
"""The subscription to requests for waves."""
MAX_ERROR_SHARE = 0.5
"""Share of samples without a reward, above which a wave or run fails: few rewards say little of a policy."""
JUDGE_SECONDS = 300.0
"""Time that a question waits for engines that are full or away before its sample gets no reward."""
DRAWS_IN_HAND = 8
"""Steps whose prompts are drawn at a time; workers of tasks and copies of files bound them further."""
KEEP_RUN_DAYS = 400
"""Retention of an evaluation run after its end."""
MIGRATIONS = "services.rollout.adapters.migrations"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutApp:
    """An assembled service: its HTTP application and its background work."""

    http: FastAPI
    background: Sequence[Callable[[], Awaitable[None]]]


@asynccontextmanager
async def open_rollout(settings: RolloutSettings) -> AsyncIterator[RolloutApp]:
    """Connect and assemble; leaving closes everything in the opposite order."""
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
        engines = EngineDirectory(settings.peers.loader_urls, token=settings.internal.token)
        stack.push_async_callback(engines.aclose)
        directory = TrainerDirectory(settings.peers.trainer_urls, token=settings.internal.token)
        stack.push_async_callback(directory.aclose)
        folder = await asyncio.to_thread(hold_folder, "mint-rows-")
        stack.push_async_callback(asyncio.to_thread, folder.remove)
        registry_http = InternalHttp(
            settings.peers.registry_url, token=settings.internal.token, peer="the registry"
        )
        stack.push_async_callback(registry_http.close)
        limits = WorkerLimits(
            workers=settings.tasks.task_workers,
            call_seconds=settings.tasks.task_seconds,
            memory_bytes=settings.tasks.task_memory_bytes,
        )
        tasks = await stack.enter_async_context(open_tasks(installed_families(), limits))
        judge = EngineJudge(
            engines, RegistryClient(registry_http).resolve, clock, limit_seconds=JUDGE_SECONDS
        )
        graders = await stack.enter_async_context(open_graders(settings.graders, judge, service="rollout"))

        waves, stall_seconds = settings.waves, settings.waves.stall_seconds
        sampler, trainers = EngineSampler(engines), Trainers(directory)
        registry = RegistryRecords(RegistryClient(registry_http))
        files = LocalRows(blobs, folder.path, limit_bytes=waves.file_copies_bytes)
        rows = FileRows(files)
        runs, erasures = PostgresEvaluationRuns(pool), PostgresErasures(pool)
        commits = Commits(jobs=PostgresJobs(pool), ledger=PostgresLedger(pool, clock), clock=clock)
        of_jobs = JobHandlers(
            commits=commits,
            blobs=blobs,
            tasks=tasks,
            rows=rows,
            policies=registry,
            scores=registry,
            draws=event_gate(DRAWS_IN_HAND, what="the draws of one tenant's prompts"),
        )
        requests = EngineRequests(clock, in_flight=waves.requests_in_flight)
        of_waves = WaveHandlers(
            commits=commits,
            blobs=blobs,
            tasks=TaskWaves(
                blobs=blobs,
                tasks=tasks,
                sampler=sampler,
                requests=requests,
                algorithms=algorithms,
                most_faults=MAX_ERROR_SHARE,
            ),
            files=FileWaves(
                blobs=blobs,
                rows=rows,
                renderer=RowRenderer(trainers=trainers, requests=requests),
                samples=GradedSamples(
                    sampler=sampler,
                    graders=graders,
                    requests=requests,
                    clock=clock,
                    limits=GradingLimits(most_faults=MAX_ERROR_SHARE, unanswered_seconds=JUDGE_SECONDS / 2),
                ),
                sampler=sampler,
                algorithms=algorithms,
            ),
            turns=event_gate(waves.waves_in_hand, what="the turns of one tenant's waves"),
            pulse_seconds=stall_seconds / 4,
        )
        run_requests = EngineRequests(clock, in_flight=max(1, waves.requests_in_flight // 4))
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
            patience_seconds=stall_seconds,
        )
        eraser = Eraser(
            erasures=erasures,
            records=trainers,
            blobs=blobs,
            clock=clock,
            keep_seconds=settings.erasure.keep_waves_days * DAY_SECONDS,
            every_seconds=settings.erasure.erase_seconds,
        )
        remove_unused = partial(
            run_periodically,
            files.remove_unused,
            name="copies of files",
            every_seconds=IDLE_SECONDS / 4,
            clock=clock,
        )
        http = create_http(
            title="MinT rollout",
            service="rollout",
            internal_token=settings.internal.token,
            ready=lambda: True,
        )
        callers_tasks = BoundedTasks(tasks, at_once=max(1, settings.tasks.task_workers // 2))
        include_routes(
            http.router,
            task_routes(callers_tasks, sampler),
            job_routes(of_jobs),
            quota_routes(commits.jobs, _quotas(settings.quotas), clock),
            file_routes(erasures, clock),
            evaluation_routes(runs, clock),
        )
        short, work = dispatch(of_jobs, of_waves, bus, clock)
        background = (
            OutboxRelay(pool, bus, clock).run,
            partial(run_periodically, clock.follow, name="clock", every_seconds=FOLLOW_SECONDS, clock=clock),
            partial(prune_runs, runs, clock),
            short.run,
            partial(of_waves.run, work),
            watchdog.run,
            evaluations.run,
            JobScores(commits=commits, runs=runs).run,
            eraser.run,
            remove_unused,
            partial(engines.follow, bus),
        )
        yield RolloutApp(http=http, background=background)


async def prune_runs(runs: PostgresEvaluationRuns, clock: Clock) -> None:
    """Forget evaluation runs of long ago, hourly until cancelled; their scores stay with the registry."""

    async def prune() -> None:
        await runs.prune(before=clock.now() - KEEP_RUN_DAYS * DAY_SECONDS)

    await run_periodically(prune, name="prune evaluation runs", every_seconds=3600.0, clock=clock)


def _quotas(settings: QuotaSettings) -> JobQuotas:
    return JobQuotas(
        open_jobs=settings.jobs_per_tenant, trainer_seconds=settings.trainer_seconds_per_day or math.inf
    )


def dispatch(
    of_jobs: JobHandlers[Connection],
    of_waves: WaveHandlers[Connection],
    bus: Bus,
    clock: Clock,
) -> tuple[Dispatcher, Dispatcher]:
    """Return the dispatchers of short and of long work, so that a wave never keeps another job waiting.

    A tenant's draws of prompts leave half of the short ones to other tenants' events.

    They have no ledger: a duplicate ends here instead of repeating what followed from it. The watchdog
    repeats what a job waits on; if every duplicate did, each repetition would chase its job to the end.
    """
    short = Dispatcher(
        bus=bus, ledger=None, durable="rollout", clock=clock, concurrency=deliveries_of(of_jobs.draws)
    )
    short.on(JobSubmitted, of_jobs.on_job_submitted, given_up=of_jobs.on_job_given_up)
    short.on(JobFinished, of_jobs.on_job_finished)
    short.on(RevisionPublished, of_jobs.on_revision_published, given_up=of_jobs.on_fact_given_up)
    short.on(RevisionRejected, of_jobs.on_step_failed, given_up=of_jobs.on_fact_given_up)
    short.on(TrainingFailed, of_jobs.on_step_failed, given_up=of_jobs.on_fact_given_up)
    taken = deliveries_of(of_waves.turns)
    work = Dispatcher(bus=bus, ledger=None, durable=WAVES, clock=clock, concurrency=taken)
    work.on(WaveRequested, of_waves.on_wave_requested, given_up=of_waves.on_wave_given_up)
    return short, work


async def run(settings: RolloutSettings) -> None:
    """Serve until told to stop."""
    async with open_rollout(settings) as rollout:
        await run_service(rollout.http, settings.http, rollout.background)
