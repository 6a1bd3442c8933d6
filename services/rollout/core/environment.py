"""Environments: code that others wrote, in an installation of its own, and the episodes that it runs.

An environment calls a model as any client would, at an address that is its episode's alone; it reports a
reward. What is trained comes from the recorded calls, never from its report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from mint_common.events import EnvironmentSpec
from mint_common.ids import JobId, TenantId, WaveId

MAX_REWARD = 1e6
"""Maximum absolute reward of an episode: the advantages of larger ones lose their digits in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentInfo:
    """An environment with its arguments.

    ``tasks`` counts the tasks of a split, None if they have no end. ``by_group``: a group's episodes run in
    one call, as they are rewarded together. A worker may have ``at_once`` episodes at a time, None: as many
    as of any environment.
    """

    description: str
    tasks: int | None
    by_group: bool = False
    at_once: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentTask:
    """A task of an environment: ``key`` is its name within the split, ``entry`` its JSON description."""

    key: str
    entry: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodePlace:
    """The place of an episode in its job.

    ``group`` counts the tasks of a step and ``sample`` the ``group_size`` episodes of one task, from 0.
    ``index`` counts the tasks of all steps, ``seed`` is a number of the task's own: the episodes of a group
    have the same.
    """

    job_id: JobId
    wave_id: WaveId
    step: int
    group: int
    sample: int
    group_size: int
    index: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeCall:
    """One episode to run.

    The model answers at ``http://localhost<path>/v1`` on the unix socket ``socket``, as OpenAI's API does;
    ``model`` is its name there. ``episode_id`` is the same at each attempt. Only jobs
    have a ``place``.
    """

    episode_id: str
    path: str
    socket: str
    model: str
    temperature: float
    max_new_tokens: int
    max_turns: int
    seed: int
    place: EpisodePlace | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeReport:
    """An environment's report of an episode.

    ``reward`` is None with an ``error``. ``is_truncated``: it ended at a limit of turns or tokens.
    ``seconds`` is how long it ran, None: since it was handed over.
    """

    reward: float | None
    scores: dict[str, float] = field(default_factory=dict)
    stop: str = ""
    is_truncated: bool = False
    error: str = ""
    seconds: float | None = None


class EnvironmentFault(Exception):
    """A worker ended, hung or left its limits; ``whose`` says whether an episode may be repeated."""

    def __init__(self, problem: str, *, whose: Literal["environment", "infrastructure"]) -> None:
        super().__init__(problem)
        self.whose = whose


class Environments(Protocol):
    """The installed environments; their code runs in worker processes."""

    async def describe(
        self, environment: EnvironmentSpec, split: str, *, tenant_id: TenantId
    ) -> EnvironmentInfo:
        """Return a description.

        Raises NotFound for an unknown one, InvalidField for wrong arguments, and Overloaded.
        """
        ...

    async def draw(
        self, environment: EnvironmentSpec, split: str, n: int, seed: int, *, tenant_id: TenantId
    ) -> list[EnvironmentTask]:
        """Return ``n`` tasks of a split: the same for the same seed. Raises TaskFailed, Overloaded."""
        ...

    async def run(
        self,
        environment: EnvironmentSpec,
        task: EnvironmentTask,
        episodes: Sequence[EpisodeCall],
        *,
        tenant_id: TenantId,
    ) -> list[EpisodeReport]:
        """Run episodes of one task, one unless ``by_group``; a report each. Raises EnvironmentFault."""
        ...
