"""Episodes that agents elsewhere run: their names, what an agent is told of one, what a job waits for. Pure.

Invariant: a name is of one attempt at an episode. What comes under the name of an earlier attempt, such as a
late call of an agent that was given up, meets no later one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec
from mint_common.ids import JobId, TenantId, WaveId
from mint_common.job_requests import RewardBody
from mint_common.json_types import JsonObject
from services.rollout.core.environment import MAX_REWARD, EpisodeCall, EpisodePlace, EpisodeReport

NOT_CLAIMED = "waits for an agent to claim episodes: POST /mint/v1/jobs/{job_id}/episodes"
_PREFIX = "ep"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEpisode:
    """One attempt at an episode that an agent may claim."""

    name: str
    call: EpisodeCall
    tenant_id: TenantId
    environment: EnvironmentSpec

    @property
    def token(self) -> str:
        """Return the episode's name at the model door."""
        return self.call.path.rpartition("/")[2]

    @property
    def place(self) -> EpisodePlace:
        """Return its place in its job: only jobs have episodes of agents."""
        assert self.call.place is not None, "an episode of agents that no job has"
        return self.call.place

    @property
    def order(self) -> tuple[int, int, int]:
        """Return what orders the episodes of a job."""
        place = self.place
        return place.step, place.group, place.sample


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWave:
    """A wave whose episodes agents claim of this process; ``waits_for`` is a sentence."""

    wave_id: WaveId
    job_id: JobId
    waits_for: str


def episode_name(wave_id: WaveId, nonce: str) -> str:
    """Return the name of an attempt at an episode of a wave; ``nonce`` is hexadecimal."""
    return f"{_PREFIX}_{wave_id.rpartition('_')[2]}_{nonce}"


def wave_of(name: str) -> WaveId | None:
    """Return the wave of an episode's name, None if it is none."""
    prefix, _, rest = name.partition("_")
    tail, _, nonce = rest.partition("_")
    return WaveId(f"wave_{tail}") if prefix == _PREFIX and tail and nonce else None


def claim_view(episode: AgentEpisode, *, deadline: float) -> JsonObject:
    """Return what an agent is told of a claimed episode; ``deadline`` is in seconds since the epoch."""
    call, place = episode.call, episode.place
    return {
        "episode": episode.name,
        "job_id": place.job_id,
        "step": place.step,
        "group": place.group,
        "group_size": place.group_size,
        "sample": place.sample,
        "index": place.index,
        "seed": place.seed,
        "model": call.model,
        "temperature": call.temperature,
        "max_new_tokens": call.max_new_tokens,
        "max_turns": call.max_turns,
        "deadline": deadline,
    }


def waits_for(job_id: JobId, *, waiting: int, claimed: int) -> str:
    """Return what a job with so many episodes waits for: nothing while an agent has one."""
    return NOT_CLAIMED.format(job_id=job_id) if waiting and not claimed else ""


def report_of(body: RewardBody, *, turns: int) -> EpisodeReport:
    """Return what an agent reports after ``turns`` model calls. Raises InvalidField."""
    if (body.reward is None) == (not body.error):
        raise InvalidField(field="reward", problem="give exactly one of `reward` and `error`")
    if body.reward is not None:
        if not math.isfinite(body.reward) or abs(body.reward) > MAX_REWARD:
            raise InvalidField(
                field="reward", problem=f"must be a number from {-MAX_REWARD:g} to {MAX_REWARD:g}"
            )
        if not turns:
            problem = "the episode has no answer of the model yet: call it first, or post an `error`"
            raise InvalidField(field="reward", problem=problem)
    return EpisodeReport(
        reward=None if body.reward is None else float(body.reward),
        scores=_finite(body.scores),
        stop=body.stop,
        is_truncated=body.is_truncated,
        error=body.error,
    )


def _finite(scores: Mapping[str, float]) -> dict[str, float]:
    for name, value in scores.items():
        if not math.isfinite(value):
            raise InvalidField(field=f"scores.{name}", problem="must be a finite number")
    return {name: float(value) for name, value in scores.items()}
