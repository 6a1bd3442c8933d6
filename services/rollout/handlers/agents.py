"""The episodes of this process that agents elsewhere run: offered, claimed for a time, rewarded once.

Invariants:
- An episode is one agent's at a time, and never another tenant's.
- An agent that is silent until its deadline has lost the episode, which is offered again under a new name.
- Nothing here waits for an agent but the wave that needs its reward.
"""

import asyncio
import heapq
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count

from mint_common.errors import InvalidField
from mint_common.events import EnvironmentSpec
from mint_common.ids import JobId, TenantId
from mint_common.job_errors import EpisodeOver
from mint_common.runtime.clock import Clock
from mint_common.tenant_budget import TenantBudget
from mint_common.waiting import wait_for_event
from services.rollout.core.agents import AgentEpisode, AgentWave, episode_name, waits_for
from services.rollout.core.environment import EnvironmentFault, EpisodeCall, EpisodeReport

MAX_CLAIMED = 256
"""Episodes of a tenant that its agents have at a time: each keeps the tokens of its calls in memory."""
REMEMBERED = 1024
"""Rewards of ended episodes that are known, so that a repeat of one is no error."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Offer:
    """An episode that waits for an agent or, from ``claimed_at``, for its report."""

    episode: AgentEpisode
    claimed: asyncio.Event = field(default_factory=asyncio.Event)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    report: EpisodeReport | None = None
    is_over: bool = False


class Agents:
    """Agents of all tenants, as an environment. What waits here is bounded by the waves in hand."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offers: dict[str, _Offer] = {}
        self._free: dict[JobId, list[tuple[tuple[int, int, int], int, _Offer]]] = {}
        self._claimed = TenantBudget(what="your tenant's claimed episodes", limit=MAX_CLAIMED)
        self._numbers = count()
        self._news = asyncio.Event()
        self._reported: OrderedDict[tuple[TenantId, str], EpisodeReport] = OrderedDict()

    async def run(
        self, environment: EnvironmentSpec, call: EpisodeCall, *, tenant_id: TenantId
    ) -> EpisodeReport:
        """Offer an episode until an agent claims it, and return its report. Raises EnvironmentFault."""
        with self._offered(call, environment, tenant_id) as offer:
            await offer.claimed.wait()
            began, limit = self._clock.monotonic(), environment.episode_seconds
            await wait_for_event(offer.reported, clock=self._clock, seconds=limit)
            if offer.report is None:
                problem = f"its agent posted no reward within {limit:g} s of its claim"
                raise EnvironmentFault(problem, whose="infrastructure")
            return replace(offer.report, seconds=self._clock.monotonic() - began)

    def has(self, job_id: JobId) -> bool:
        """Return whether episodes of a job may be free here."""
        return job_id in self._free

    def knows(self, name: str) -> bool:
        """Return whether an episode is, or was lately, here."""
        return name in self._offers or any(name == known for _, known in self._reported)

    def claim(self, job_id: JobId, tenant_id: TenantId, n: int) -> list[tuple[AgentEpisode, float]]:
        """Return at most ``n`` episodes of a job that are the caller's now, each with its deadline."""
        taken: list[tuple[AgentEpisode, float]] = []
        free = self._free.get(job_id, [])
        if free and free[0][-1].episode.tenant_id != tenant_id:
            return []
        while free and len(taken) < n and self._claimed.fits(tenant_id):
            *_, offer = heapq.heappop(free)
            if offer.is_over:
                continue
            offer.claimed.set()
            self._claimed.take(tenant_id)
            taken.append((offer.episode, self._clock.now() + offer.episode.environment.episode_seconds))
        return taken

    async def until_news(self, *, seconds: float) -> None:
        """Return when an episode is offered or given up, at the latest after a time."""
        self._news.clear()
        await wait_for_event(self._news, clock=self._clock, seconds=seconds)

    def claimed(self, tenant_id: TenantId, name: str) -> AgentEpisode:
        """Return an open episode that an agent has claimed. Raises EpisodeOver."""
        return self._found(tenant_id, name).episode

    def report(self, tenant_id: TenantId, name: str, report: EpisodeReport) -> None:
        """Take the report of an episode; the same again has no effect. Raises EpisodeOver, InvalidField."""
        known = self.reported(tenant_id, name)
        if known is not None:
            if known != report:
                problem = f"episode {name!r} has its reward already, {known.reward}: it counts once"
                raise InvalidField(field="reward", problem=problem)
            return
        offer = self._found(tenant_id, name)
        offer.report = self._reported[tenant_id, name] = report
        if len(self._reported) > REMEMBERED:
            self._reported.popitem(last=False)
        offer.reported.set()

    def reported(self, tenant_id: TenantId, name: str) -> EpisodeReport | None:
        """Return the report that an agent has posted of an episode, if one has."""
        return self._reported.get((tenant_id, name))

    def waves(self) -> list[AgentWave]:
        """Return the waves with open episodes, and what each waits for."""
        open_of: dict[AgentWave, list[_Offer]] = {}
        for offer in self._offers.values():
            place = offer.episode.place
            wave = AgentWave(wave_id=place.wave_id, job_id=place.job_id, waits_for="")
            open_of.setdefault(wave, []).append(offer)
        return [
            AgentWave(
                wave_id=wave.wave_id,
                job_id=wave.job_id,
                waits_for=waits_for(
                    wave.job_id,
                    waiting=sum(not each.claimed.is_set() for each in offers),
                    claimed=sum(each.claimed.is_set() for each in offers),
                ),
            )
            for wave, offers in open_of.items()
        ]

    def _found(self, tenant_id: TenantId, name: str) -> _Offer:
        offer = self._offers.get(name)
        if offer is None or offer.episode.tenant_id != tenant_id or not offer.claimed.is_set():
            raise EpisodeOver(name=name[:100])
        return offer

    @contextmanager
    def _offered(
        self, call: EpisodeCall, environment: EnvironmentSpec, tenant_id: TenantId
    ) -> Iterator[_Offer]:
        assert call.place is not None, "an episode of agents that no job has"
        job_id, name = call.place.job_id, episode_name(call.place.wave_id, secrets.token_hex(8))
        episode = AgentEpisode(name=name, call=call, tenant_id=tenant_id, environment=environment)
        offer = self._offers[name] = _Offer(episode=episode)
        free = self._free.setdefault(job_id, [])
        heapq.heappush(free, (episode.order, next(self._numbers), offer))
        self._news.set()
        try:
            yield offer
        finally:
            offer.is_over = True
            if offer.claimed.is_set():
                self._claimed.take(tenant_id, -1)
                self._news.set()
            del self._offers[name]
            self._forget(job_id)

    def _forget(self, job_id: JobId) -> None:
        """Drop what is over of a job's queue, and an empty queue."""
        free = self._free.get(job_id, [])
        while free and free[0][-1].is_over:
            heapq.heappop(free)
        if not free:
            self._free.pop(job_id, None)
