"""The handlers of waves and the model door that their episodes call, over one set of stores and engines."""

from pathlib import Path

from mint_common.algorithms import Algorithms
from mint_common.blobs.port import Blobs
from mint_common.runtime.fair_gate import FairGate
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout.adapters.engine_chat import EngineChat
from services.rollout.adapters.engine_sampler import EngineSampler
from services.rollout.adapters.peers import Trainers
from services.rollout.core.environment import Environments
from services.rollout.handlers.commits import Commits
from services.rollout.handlers.engine_requests import EngineRequests
from services.rollout.handlers.environment_waves import EnvironmentWaves
from services.rollout.handlers.episode_runs import EpisodeRunner
from services.rollout.handlers.episode_turns import EpisodeTurns
from services.rollout.handlers.file_rows import FileRows
from services.rollout.handlers.file_waves import FileWaves
from services.rollout.handlers.graded_samples import GradedSamples, GradingLimits
from services.rollout.handlers.model_door import ModelDoor
from services.rollout.handlers.open_episode import DoorParts
from services.rollout.handlers.row_rendering import RowRenderer
from services.rollout.handlers.task_waves import TaskWaves
from services.rollout.handlers.teacher_scores import TeacherScores
from services.rollout.handlers.tenant_turns import event_gate
from services.rollout.handlers.waves import WaveHandlers
from services.rollout.ports import Tasks

MAX_ERROR_SHARE = 0.5
"""Share of samples without a reward, above which a wave or run fails: few rewards say little of a policy."""
MAX_FAILED_EPISODES = 0.1
"""Share of the episodes of a wave or run that may end without a reward."""
JUDGE_SECONDS = 300.0
"""Time that a question waits for engines that are full or away before its sample gets no reward."""
WAVES_IN_HAND, REQUESTS_IN_FLIGHT = 8, 32
"""Waves that are sampled at a time, and prompts of a tenant that wait for an engine: engines have queues of
their own, and enough waits in them to keep them busy."""
AGENT_WAVES_IN_HAND = 256
"""Waves whose episodes agents elsewhere run, at a time; a tenant has a quarter of them at most."""
EPISODES_IN_HAND = 256
"""Episodes of environments that run at a time, fewer of a base whose engines' KV caches are full; a tenant
has three quarters of them at most."""


def make_waves(
    commits: Commits,
    *,
    blobs: Blobs,
    tasks: Tasks,
    rows: FileRows,
    environments: Environments,
    trainers: Trainers,
    graders: GraderRunner,
    sampler: EngineSampler,
    chat: EngineChat,
    algorithms: Algorithms,
    socket: Path,
    stall_seconds: float,
) -> tuple[WaveHandlers, ModelDoor]:
    """Return the handlers of waves, and the model door at a unix socket.

    Calls of episodes have turns of their own at the engines: a prompt of a task is one answer, an episode has
    many, each of which others wait for.
    """
    clock = commits.clock
    requests = EngineRequests(clock, in_flight=REQUESTS_IN_FLIGHT)
    of_episodes = EngineRequests(clock, in_flight=EPISODES_IN_HAND)
    parts = DoorParts(sampler=sampler, chat=chat, requests=of_episodes, clock=clock)
    door = ModelDoor(parts=parts, socket=socket)
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
            episodes=EpisodeRunner(
                environments=environments,
                door=door,
                turns=EpisodeTurns(sampler.cache_uses, clock, episodes=EPISODES_IN_HAND),
            ),
            max_faults=MAX_FAILED_EPISODES,
        ),
        teachers=TeacherScores(sampler=sampler, requests=requests),
        turns=event_gate(WAVES_IN_HAND, what="the turns of one tenant's waves"),
        agent_turns=FairGate(AGENT_WAVES_IN_HAND, limit=AGENT_WAVES_IN_HAND // 4),
        pulse_seconds=stall_seconds / 4,
    )
    return handlers, door
