"""The composition of what works on waves, and of the model door that episodes call."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mint_common.algorithms import Algorithms
from mint_common.blobs.port import Blobs
from mint_common.client.directory import EngineDirectory
from mint_common.runtime.clock import Clock
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.runner import GraderRunner
from mint_common.runtime.held_folder import hold_folder
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.peers import Trainers
from services.rollout.core.environment import Environments
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.environment_waves import EnvironmentWaves
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.file_waves import FileWaves
from services.rollout.handlers.graded_samples import GradedSamples, GradingLimits
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import DoorParts
from services.rollout.handlers.row_rendering import RowRenderer
from services.rollout.handlers.task_waves import TaskWaves
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.waves import WaveHandlers
from services.rollout.ports import Tasks

MAX_ERROR_SHARE = 0.5
"""Share of samples without a reward, above which a wave or run fails: few rewards say little of a policy."""
MAX_FAILED_EPISODES = 0.1
"""Share of a wave's episodes that may end without a reward."""
JUDGE_SECONDS = 300.0
"""Time that a question waits for engines that are full or away before its sample gets no reward."""
WAVES_IN_HAND, REQUESTS_IN_FLIGHT = 8, 32
"""Waves that are sampled at a time, and prompts of a tenant that wait for an engine: engines have queues of
their own, and enough waits in them to keep them busy."""
EPISODES_IN_HAND = 256
"""Episodes of environments that run at a time; a tenant has three quarters of them at most."""


@asynccontextmanager
async def open_waves(
    commits: Commits,
    *,
    blobs: Blobs,
    tasks: Tasks,
    rows: FileRows,
    environments: Environments,
    trainers: Trainers,
    graders: GraderRunner,
    engines: EngineDirectory,
    algorithms: Algorithms,
    stall_seconds: float,
) -> AsyncIterator[tuple[WaveHandlers, ModelDoor]]:
    """Assemble the handlers of waves and the model door; leaving removes the folder of its socket."""
    clock, sampler = commits.clock, EngineSampler(engines)
    requests = EngineRequests(clock, in_flight=REQUESTS_IN_FLIGHT)
    async with open_door(engines, sampler, clock) as door:
        handlers = WaveHandlers(
            commits=commits,
            blobs=blobs,
            tasks=TaskWaves(
                blobs=blobs,
                tasks=tasks,
                sampler=sampler,
                requests=requests,
                algorithms=algorithms,
                max_faults=MAX_ERROR_SHARE,
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
                    limits=GradingLimits(max_faults=MAX_ERROR_SHARE, unanswered_seconds=JUDGE_SECONDS / 2),
                ),
                sampler=sampler,
                algorithms=algorithms,
            ),
            environments=EnvironmentWaves(
                blobs=blobs,
                environments=environments,
                door=door,
                turns=FairGate(EPISODES_IN_HAND, limit=EPISODES_IN_HAND * 3 // 4),
                max_faults=MAX_FAILED_EPISODES,
            ),
            turns=event_gate(WAVES_IN_HAND, what="the turns of one tenant's waves"),
            pulse_seconds=stall_seconds / 4,
        )
        yield handlers, door


@asynccontextmanager
async def open_door(
    engines: EngineDirectory, sampler: EngineSampler, clock: Clock
) -> AsyncIterator[ModelDoor]:
    """Make the model door and the folder of its socket, which processes of other users can enter.

    Calls of episodes have turns of their own at the engines: a prompt of a task is one answer, an episode
    has many, each of which others wait for.
    """
    folder = await asyncio.to_thread(hold_folder, "mint-door-")
    try:
        await asyncio.to_thread(folder.path.chmod, 0o711)
        requests = EngineRequests(clock, in_flight=EPISODES_IN_HAND)
        parts = DoorParts(sampler=sampler, chat=EngineChat(engines), requests=requests, clock=clock)
        yield ModelDoor(parts=parts, socket=folder.path / "socket")
    finally:
        await asyncio.to_thread(folder.remove)
