"""A seeded simulator of jobs whose sampling runs ahead, driven by the code that decides on real ones.

Real: `services.rollout.core.job_steps`. Simulated: time, episodes with long tails, engines that fail while
they run some, a trainer, and facts that arrive twice or out of order.
"""

import heapq
import math
import random
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from itertools import count

from mint_common.errors import Unavailable
from mint_common.events import WaveRequested
from mint_common.ids import JobId, PolicyId
from services.rollout.core.job import Job, JobState, open_job
from services.rollout.core.job_steps import Fact, advance, begin, next_steps
from tests.testing.factories import make_claim
from tests.unit.rollout.world import published, submitted

CLAIM = make_claim("prompts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A fleet and its jobs. Times are in seconds; episodes are lognormal.

    An engine fails ``failures_per_hour`` times under an episode. ``disorder`` is the chance that a fact comes
    late, or twice.
    """

    policies: int
    engines: int
    seats: int
    steps: int = 8
    episodes: int = 32
    staleness: int = 0
    median_seconds: float = 1.4
    sigma: float = 0.7
    train_seconds: float = 1.0
    trainers: int = 40
    failures_per_hour: float = 0.0
    disorder: float = 0.0


@dataclass(slots=True)
class Wave:
    """A requested wave: its job, its revision's step, the episodes that have not ended."""

    job: JobId
    step: int
    sampled: int
    left: int


@dataclass(slots=True)
class Outcome:
    """What a run came to. ``lags`` counts trained waves by their lag in steps."""

    seconds: float = 0.0
    busy: float = 0.0
    lags: dict[int, int] = field(default_factory=dict)
    most_ahead: int = 0
    ended: int = 0


class Simulation:
    """One run; the same seed is the same run."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self._setting = setting
        self._chance = random.Random(seed)
        self._now = 0.0
        self._events: list[tuple[float, int, str, object]] = []
        self._numbers = count()
        self._jobs: dict[JobId, Job] = {}
        self._done: dict[JobId, set[int]] = {}
        self._taken: Counter[JobId] = Counter()
        self._sampled: dict[JobId, dict[int, Wave]] = {}
        self._waiting: deque[Wave] = deque()
        self._free = setting.seats * setting.engines
        self._in_training: set[JobId] = set()
        self._trainable: deque[tuple[JobId, int]] = deque()
        self._training = 0
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run all jobs to their ends."""
        for number in range(self._setting.policies):
            self._begin(JobId(f"job_{number}"))
        self._fill()
        while self._events:
            self._now, _, what, about = heapq.heappop(self._events)
            getattr(self, f"_{what}")(about)
            self._fill()
        self.outcome.seconds = self._now
        self.outcome.ended = sum(job.state is JobState.SUCCEEDED for job in self._jobs.values())
        return self.outcome

    def _at(self, seconds: float, what: str, about: object) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._numbers), what, about))

    def _begin(self, job_id: JobId) -> None:
        event = submitted(job_id=job_id, policy_id=PolicyId(job_id), steps=self._setting.steps)
        job = open_job(replace(event, spec=replace(event.spec, staleness=self._setting.staleness)), now=0.0)
        prompts = dict.fromkeys(job.due_steps, CLAIM)
        moved = begin(job, prompts, revision=None, cause="start", now=0.0)
        self._done[job_id], self._sampled[job_id] = set(), {}
        self._take(moved.job, moved.events)

    def _take(self, job: Job, events: tuple[object, ...]) -> None:
        self._jobs[job.job_id] = job
        for event in events:
            if isinstance(event, WaveRequested):
                sampled = event.revision.number if event.revision else 0
                self._waiting.append(
                    Wave(job=job.job_id, step=event.step, sampled=sampled, left=self._setting.episodes)
                )
        ahead = job.requested - job.steps_done
        self.outcome.most_ahead = max(self.outcome.most_ahead, ahead)

    def _fill(self) -> None:
        """Seat the episodes of the oldest waves."""
        while self._waiting and self._free:
            wave = self._waiting[0]
            wave.left -= 1
            if not wave.left:
                self._waiting.popleft()
            self._seat(wave)

    def _seat(self, wave: Wave) -> None:
        self._free -= 1
        seconds = self._episode_seconds()
        self.outcome.busy += seconds
        self._sampled[wave.job].setdefault(wave.step, replace(wave, left=self._setting.episodes))
        self._at(seconds, "episode", (wave.job, wave.step))

    def _episode_seconds(self) -> float:
        """Return the time of an episode; one whose engine fails begins again elsewhere."""
        setting, total = self._setting, 0.0
        while True:
            seconds = setting.median_seconds * math.exp(self._chance.gauss(0.0, setting.sigma))
            rate = setting.failures_per_hour / 3600
            failed = self._chance.expovariate(rate) if rate else math.inf
            if failed >= seconds:
                return total + seconds
            total += failed

    def _episode(self, about: tuple[JobId, int]) -> None:
        job_id, step = about
        self._free += 1
        wave = self._sampled[job_id][step]
        wave.left -= 1
        if not wave.left:
            self._done[job_id].add(step)
            self._train_next(job_id)

    def _train_next(self, job_id: JobId) -> None:
        """Queue the step after those that are trained, once it is sampled."""
        step = self._taken[job_id] + 1
        if job_id in self._in_training or step not in self._done[job_id]:
            return
        self._in_training.add(job_id)
        self._taken[job_id] = step
        self._trainable.append((job_id, step))
        self._start_training()

    def _start_training(self) -> None:
        while self._trainable and self._training < self._setting.trainers:
            self._training += 1
            self._at(self._setting.train_seconds, "trained", self._trainable.popleft())

    def _trained(self, about: tuple[JobId, int]) -> None:
        job_id, step = about
        self._training -= 1
        wave = self._sampled[job_id].pop(step)
        lag = step - 1 - wave.sampled
        self.outcome.lags[lag] = self.outcome.lags.get(lag, 0) + 1
        self._in_training.discard(job_id)
        self._deliver((job_id, step))
        self._train_next(job_id)
        self._start_training()

    def _deliver(self, about: tuple[JobId, int]) -> None:
        job_id, step = about
        chance = self._chance.random
        if chance() < self._setting.disorder:
            self._at(chance() * 3, "deliver", about)  # again, or late
            if chance() < 0.5:
                return
        self._handle(published(step, job_id=job_id), about)

    def _handle(self, fact: Fact, about: tuple[JobId, int]) -> None:
        job = self._jobs[about[0]]
        try:
            prompts = dict.fromkeys(next_steps(job, fact), CLAIM)
            moved = advance(job, fact, cause=fact.id, prompts=prompts, waves=(), now=self._now)
        except Unavailable:
            self._at(0.2, "deliver", about)
            return
        self._take(moved.job, moved.events)
