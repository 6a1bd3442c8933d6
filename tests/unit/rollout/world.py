"""The rest of the world for tests of rollout: facts that other services would emit, and a scripted engine."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mint_common.claims import RevisionRef
from mint_common.datasets import Rendering, RenderRequest
from mint_common.errors import MintError
from mint_common.events import (
    JobSubmitted,
    RevisionPublished,
    RevisionRejected,
    TrainingFailed,
)
from mint_common.ids import BaseName, Digest, JobId, PolicyId, TenantId, WaveId, sha256_digest
from mint_common.records import Prompt
from mint_common.runtime.graders.judge import JudgeAnswer, Question
from mint_common.runtime.graders.runner import GraderRunner
from services.rollout import metrics
from services.rollout.adapters.tasks.catalog import InstalledTasks, installed_families
from services.rollout.core.evaluation import EvaluationRun
from services.rollout.core.job import Job, wave_id_of
from services.rollout.core.sampling import Completion, GroupRequest, SampledGroup
from services.rollout.core.task import Split, TaskInfo
from services.rollout.core.wave import Wave, WaveState
from tests.testing.factories import BASE, JOB, LORA, POLICY, SPEC, TENANT, make_claim

EOS = 2

GROUPS = 8
"""Prompts of each step of a `history`."""


def submitted(*, job_id: JobId = JOB, policy_id: PolicyId = POLICY, **changes: object) -> JobSubmitted:
    """Return a submission of a small job; ``changes`` are to its spec."""
    spec = replace(SPEC, **{"steps": 3, "prompts_per_step": 2, "group_size": 4, **changes})
    return JobSubmitted(tenant_id=TENANT, base=BASE, job_id=job_id, policy_id=policy_id, lora=LORA, spec=spec)


def revision_of(wave_id: WaveId, number: int = 1) -> RevisionRef:
    """Return the revision that training on a wave leads to."""
    digest = sha256_digest(wave_id.encode())
    return RevisionRef(digest=digest, number=number, manifest=make_claim(f"revisions/{number}"))


def published(step: int, *, job_id: JobId = JOB) -> RevisionPublished:
    """Return the publication that a job's step leads to."""
    wave_id = wave_id_of(job_id, step)
    return RevisionPublished(
        tenant_id=TENANT,
        base=BASE,
        export_id=wave_id,
        policy_id=POLICY,
        job_id=job_id,
        wave_id=wave_id,
        revision=revision_of(wave_id, step),
        parent=None,
        step=step,
        metrics={"ratio_max_error": 0.0, "reward_mean": -1.0},
    )


def rejected(step: int, *, job_id: JobId = JOB) -> RevisionRejected:
    """Return the rejection of what a job's step exported."""
    wave_id = wave_id_of(job_id, step)
    return RevisionRejected(
        tenant_id=TENANT,
        base=BASE,
        export_id=wave_id,
        policy_id=POLICY,
        job_id=job_id,
        wave_id=wave_id,
        digest=sha256_digest(wave_id.encode()),
        code="adapter_invalid",
        reason="rank 64 is above 16",
    )


def training_failed(step: int, *, job_id: JobId = JOB) -> TrainingFailed:
    """Return the failure of training on a job's step."""
    return TrainingFailed(
        tenant_id=TENANT,
        base=BASE,
        wave_id=wave_id_of(job_id, step),
        job_id=job_id,
        policy_id=POLICY,
        code="blob_corrupt",
        reason="the record is torn",
    )


def history(rewards: Sequence[float], *, idle: Sequence[int] = ()) -> list[Wave]:
    """Return a job's waves, each sampled at what the one before published; idle ones publish that again."""
    waves, number = [], 0
    for step, reward in enumerate(rewards, start=1):
        sampled = number
        number += step not in idle or not number
        waves.append(
            Wave(
                wave_id=WaveId(f"wave_{step}"),
                job_id=JOB,
                step=step,
                state=WaveState.PUBLISHED,
                sampled=sha256_digest(b"%d" % sampled) if sampled else None,
                sampled_number=sampled or None,
                prompts=make_claim("p"),
                requested_at=float(step),
                reward_mean=reward,
                revision=replace(revision_of(WaveId("w"), number), digest=sha256_digest(b"%d" % number)),
                metrics={"skipped_groups": 1.0, "trained_tokens": 0.0 if step in idle else 64.0},
            )
        )
    return waves


def tokens_of(text: str) -> tuple[int, ...]:
    """Return the ids of a byte tokenizer."""
    return tuple(byte + 3 for byte in text.encode())


@dataclass
class ScriptedEngine:
    """A sampler whose completions are a function of the prompt and the seed, with troubles to order.

    ``troubles`` are raised one a call, before anything is sampled; ``answers_as`` changes the revision that
    it says it answered with.
    """

    answer: Callable[[str, int], str] = lambda prompt, seed: prompt.removeprefix("f ").removesuffix("=")
    troubles: list[MintError] = field(default_factory=list)
    answers_as: Callable[[Digest | None], Digest | None] = lambda digest: digest
    requests: list[GroupRequest] = field(default_factory=list)
    start: tuple[int, ...] = ()

    async def sample(self, request: GroupRequest) -> SampledGroup:
        """Answer, or raise the next trouble."""
        if self.troubles:
            raise self.troubles.pop(0)
        self.requests.append(request)
        texts = [self.answer(request.prompt, request.seed + index) for index in range(request.n)]
        return SampledGroup(
            revision=self.answers_as(request.revision.digest if request.revision else None),
            prompt_tokens=request.prompt_tokens or tokens_of(request.prompt),
            completions=tuple(
                Completion(text=text, tokens=(*tokens_of(text), EOS), logprobs=(-0.5,) * (len(text) + 1))
                for text in texts
            ),
        )

    async def tokenize(self, base: BaseName, text: str) -> tuple[int, ...]:
        """Return the ids of a byte tokenizer."""
        return (*self.start, *tokens_of(text))

    async def stop_token(self, base: BaseName) -> int:
        """Return the end token."""
        return EOS

    async def max_context(self, base: BaseName) -> int:
        """Return the longest sequence."""
        return 64


class NoRendering:
    """The trainers of a stack whose jobs have tasks only."""

    async def render(self, base: BaseName, request: RenderRequest) -> Rendering:
        """Refuse."""
        raise AssertionError(request)


class NoJudge:
    """No model to ask."""

    async def check(self, model: str, *, tenant_id: TenantId, field: str) -> None:
        """Refuse."""
        raise AssertionError(model)

    async def ask(self, question: Question, *, tenant_id: TenantId) -> JudgeAnswer:
        """Refuse."""
        raise AssertionError(question)


def graders() -> GraderRunner:
    """Return graders that compare texts."""
    return GraderRunner(judge=NoJudge(), sandbox=None, workers=1)


class LocalTasks:
    """The installed tasks, run in this process: simulated time does not wait for another one."""

    def __init__(self, families: Mapping[str, str] | None = None) -> None:
        self._tasks = InstalledTasks(installed_families() if families is None else families)

    async def describe_all(self) -> list[TaskInfo]:
        """Return every task."""
        return [await self.describe(name) for name in self._tasks.names()]

    async def describe(self, name: str) -> TaskInfo:
        """Return one task."""
        task = self._tasks.task(name)
        return TaskInfo(name=task.name, description=task.description, defaults=task.defaults)

    async def draw(self, name: str, split: Split, n: int, seed: int, *, tenant_id: TenantId) -> list[Prompt]:
        """Return prompts."""
        return self._tasks.task(name).prompts(split, n, seed)

    async def score(
        self, name: str, answers: Sequence[tuple[str, str]], *, tenant_id: TenantId
    ) -> list[float]:
        """Return rewards."""
        task = self._tasks.task(name)
        return [task.reward(entry, text) for entry, text in answers]


@dataclass
class Policies:
    """Policies that are as new as a test wants; ``at_question`` runs while a job asks for the newest."""

    newest: RevisionRef | None = None
    trouble: MintError | None = None
    at_question: Callable[[], Awaitable[None]] | None = None

    async def latest(self, tenant_id: TenantId, policy_id: PolicyId) -> RevisionRef | None:
        """Return the newest revision."""
        if self.at_question is not None:
            await self.at_question()
        if self.trouble is not None:
            raise self.trouble
        return self.newest


@dataclass
class ScoreBoard:
    """Scores of jobs' revisions, by step; troubles are raised one a call."""

    recorded: list[tuple[int, dict[str, float], int]] = field(default_factory=list)
    troubles: list[MintError] = field(default_factory=list)

    async def record(self, run: EvaluationRun) -> None:
        """Refuse: no runs here."""
        raise AssertionError(run)

    async def record_metrics(
        self, job: Job, revision: RevisionRef, metrics: Mapping[str, float], *, n: int
    ) -> None:
        """Record scores."""
        if self.troubles:
            raise self.troubles.pop(0)
        self.recorded.append((revision.number, dict(metrics), n))


def counted() -> Counter[str]:
    """Return what the service has counted in this process, by short names."""
    counters = {
        "waves": metrics.WAVES,
        "samples": metrics.SAMPLES,
        "cancelled": metrics.WAVES_CANCELLED,
        "revived": metrics.JOBS_REVIVED,
    }
    return Counter(
        {
            name: int(sum(sample.value for sample in family.samples if sample.name.endswith("_total")))
            for name, counter in counters.items()
            for family in counter.collect()
        }
    )
