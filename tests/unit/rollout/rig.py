"""The rollout service in memory, with a clock that tests turn."""

import asyncio
import atexit
import secrets
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from examples.ipo.algorithm import ALGORITHM as IPO
from mint_common.algorithms import BUILT_IN, Algorithms
from mint_common.blobs.port import Blobs
from mint_common.client.directory import EngineDirectory
from mint_common.events import Event, JobSubmitted, WaveRequested
from mint_common.events.codec import decode
from mint_common.ids import JobId
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.local_rows import LocalRows
from services.rollout.adapters.peers import Trainers
from services.rollout.core.environment import Environments
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.dispatching import WAVES
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.environment_waves import EnvironmentWaves
from services.rollout.handlers.episode_runs import EpisodeRunner
from services.rollout.handlers.episode_turns import EpisodeTurns
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.file_waves import FileWaves
from services.rollout.handlers.graded_samples import GradedSamples, GradingLimits
from services.rollout.handlers.jobs import JobHandlers
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import DoorParts
from services.rollout.handlers.row_rendering import RowRenderer
from services.rollout.handlers.task_waves import TaskWaves
from services.rollout.handlers.teacher_scores import TeacherScores
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.watchdog import Watchdog
from services.rollout.handlers.waves import WaveHandlers
from services.rollout.ports import Tasks
from tests.testing.blobs_memory import MemoryBlobs
from tests.testing.bus_memory import MemoryBus
from tests.testing.clock import ManualClock
from tests.testing.factories import JOB
from tests.testing.ledger_memory import MemoryLedger
from tests.unit.rollout.memory_jobs import MemoryJobs
from tests.unit.rollout.no_environments import NoEnvironments
from tests.unit.rollout.world import (
    LocalTasks,
    NoRendering,
    Policies,
    ScoreBoard,
    ScriptedEngine,
    counted,
    graders,
)

T = TypeVar("T")

STALL_SECONDS = 20.0
GRADING = GradingLimits(max_faults=0.5, unanswered_seconds=30.0)
_FOLDERS = tempfile.TemporaryDirectory()
atexit.register(_FOLDERS.cleanup)


def _folder() -> Path:
    """Return an empty folder."""
    path = Path(_FOLDERS.name, secrets.token_hex(8))
    path.mkdir()
    return path


NO_ENVIRONMENTS = NoEnvironments()
ALGORITHMS = Algorithms([*BUILT_IN, IPO])


def wave_handlers(
    commits: Commits,
    *,
    blobs: Blobs,
    tasks: Tasks,
    rows: FileRows,
    rendering: Trainers,
    graders: GraderRunner,
    sampler: EngineSampler,
    environments: Environments = NO_ENVIRONMENTS,
) -> WaveHandlers:
    """Return the handlers of waves as the service composes them, two waves and two requests at a time."""
    clock = commits.clock
    requests = EngineRequests(clock, in_flight=2)
    samples = GradedSamples(sampler=sampler, graders=graders, requests=requests, clock=clock, limits=GRADING)
    renderer = RowRenderer(trainers=rendering, requests=requests)
    return WaveHandlers(
        commits=commits,
        blobs=blobs,
        tasks=TaskWaves(
            blobs=blobs,
            tasks=tasks,
            sampler=sampler,
            requests=requests,
            algorithms=ALGORITHMS,
            max_faults=GRADING.max_faults,
        ),
        files=FileWaves(
            blobs=blobs,
            rows=rows,
            renderer=renderer,
            samples=samples,
            sampler=sampler,
            algorithms=ALGORITHMS,
        ),
        environments=EnvironmentWaves(
            blobs=blobs,
            episodes=EpisodeRunner(
                environments=environments,
                door=ModelDoor(
                    parts=DoorParts(
                        sampler=sampler,
                        chat=EngineChat(EngineDirectory([], token="")),
                        requests=requests,
                        clock=clock,
                    ),
                    socket=Path("none"),
                ),
                turns=EpisodeTurns(lambda _: {}, clock, episodes=4),
            ),
            max_faults=0.25,
        ),
        teachers=TeacherScores(sampler=sampler, requests=requests),
        turns=event_gate(2, what="waves"),
        agent_turns=FairGate(4, limit=3),
        pulse_seconds=STALL_SECONDS / 4,
    )


@dataclass
class Rig:
    """All parts of one rollout service over memory."""

    engine: ScriptedEngine = field(default_factory=ScriptedEngine)
    policies: Policies = field(default_factory=Policies)
    clock: ManualClock = field(default_factory=lambda: ManualClock(1000.0))
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    tasks: LocalTasks = field(default_factory=LocalTasks)
    scores: ScoreBoard = field(default_factory=ScoreBoard)
    rendering: Trainers = field(default_factory=NoRendering)
    graders: GraderRunner = field(default_factory=graders)
    environments: Environments = NO_ENVIRONMENTS
    jobs: MemoryJobs = field(default_factory=MemoryJobs)
    bus: MemoryBus | None = None
    ledger: MemoryLedger = field(init=False)

    def __post_init__(self) -> None:
        self._before = counted()
        self.ledger = MemoryLedger(self.clock)
        rows = FileRows(LocalRows(self.blobs, _folder(), limit_bytes=1 << 20))
        self.commits = Commits(jobs=self.jobs, ledger=self.ledger, clock=self.clock)
        self.of_jobs: JobHandlers = JobHandlers(
            commits=self.commits,
            blobs=self.blobs,
            tasks=self.tasks,
            environments=self.environments,
            rows=rows,
            policies=self.policies,
            scores=self.scores,
            draws=event_gate(2, what="draws"),
        )
        self.of_waves = wave_handlers(
            self.commits,
            blobs=self.blobs,
            tasks=self.tasks,
            rows=rows,
            rendering=self.rendering,
            graders=self.graders,
            sampler=self.engine,
            environments=self.environments,
        )
        self.watchdog = Watchdog(
            commits=self.commits,
            start_next=self.of_jobs.start_next,
            oldest_waiting=self._oldest_waiting,
            stall_seconds=STALL_SECONDS,
        )

    async def _oldest_waiting(self) -> float | None:
        return None if self.bus is None else await self.bus.oldest_waiting(durable=WAVES)

    @property
    def counts(self) -> Counter[str]:
        """Return what was counted since the rig was made; no zeros."""
        return counted() - self._before

    async def begin(self, event: JobSubmitted) -> WaveRequested:
        """Submit a job and return its first wave."""
        await self.of_jobs.on_job_submitted(event)
        (wave,) = await self.started(event.job_id)
        assert isinstance(wave, WaveRequested)
        return wave

    async def started(self, job_id: JobId = JOB) -> Sequence[Event]:
        """Return the events that a job's start led to."""
        return await self.led_to_cause(f"start:{job_id}")

    async def led_to(self, event: Event) -> Sequence[Event]:
        """Return the events that an event led to."""
        return await self.led_to_cause(event.id)

    async def led_to_cause(self, cause: str) -> Sequence[Event]:
        """Return the events that a committed cause led to."""
        assert await self.ledger.is_known(cause)
        return [decode(row.message.data)[1] for row in self.ledger.rows if row.cause == cause]

    async def let_pass(self, work: Coroutine[object, object, T]) -> T:
        """Run work to its end, letting time pass as fast as it can."""
        task = asyncio.create_task(work)
        while not task.done():
            await self.clock.advance(0.5)
        return await task

    async def state_of(self, job_id: JobId = JOB) -> tuple[str, str]:
        """Return a job's state and reason."""
        job = await self.jobs.job(job_id)
        return job.state.value, job.reason
