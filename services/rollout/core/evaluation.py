"""Evaluation runs: a revision is scored on a task's held-out prompts, a file's rows, or in an environment."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import fsum, sqrt
from typing import Any

from mint_common.authority import Caller
from mint_common.claims import RevisionRef
from mint_common.datasets import OnLong
from mint_common.errors import BlobMissing, MintError
from mint_common.events import EnvironmentSpec, JobFile
from mint_common.graders import Grade, GraderFault
from mint_common.ids import BaseName, PolicyId, TenantId, derive_id
from services.rollout.core.fault import storable
from services.rollout.core.sampling import GroupRequest
from services.rollout.core.task import derive_seed
from services.rollout.core.trajectories import Trajectory

REWARD = "reward"
"""The metric of a run whose answers are rewarded: the mean reward."""
LOSS = "valid_loss"
"""The metric of a run over rows that have their answers: the mean cross-entropy of a trained token."""

DELETED = "was deleted before the run had read it"
"""End of the reason of a run whose file was deleted."""
MAX_ANSWER = 2000
"""Characters of a text that are kept with a score."""


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationData:
    """The rows of a run instead of a task's prompts: those of ``file``, or its ``holdout`` share unless 0.

    ``grader`` is OpenAI's JSON of the grader that rewards the answers; without one the loss of the rows' own
    answers is measured. ``on_long`` refuses or drops rows that exceed the context.
    """

    file: JobFile
    holdout: float
    grader: dict[str, Any] | None  # JSON
    on_long: OnLong


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRun:
    """A run after its last change: at most ``n`` prompts, one answer each unless they are tasks.

    ``revision`` None is the bare base, which has no ``policy_id`` and whose score is only in the run. Other
    scores are recorded as ``metric`` of ``suite``, with the author ``caller``. With ``data`` the prompts are
    rows of a file and ``task`` is empty; with an ``environment`` they are tasks of its split, ``samples``
    episodes each. ``scored`` rows have a score, ``value`` is their mean by weight, ``stderr`` its standard
    error.
    ``grader_errors`` counts the answers without a reward, by kind, ``episodes`` those of an environment by
    outcome, and ``dropped`` the rows dropped as too long. ``progress_at`` is the time of the last progress, 0
    before the first.
    """

    run_id: str
    tenant_id: TenantId
    base: BaseName
    policy_id: PolicyId | None
    policy: str
    revision: RevisionRef | None
    task: str
    suite: str
    n: int
    seed: int
    temperature: float
    max_new_tokens: int
    caller: Caller
    created_at: float
    metric: str = REWARD
    data: EvaluationData | None = None
    state: RunState = RunState.RUNNING
    reason: str = ""
    scored: int = 0
    value: float | None = None
    stderr: float | None = None
    grader_errors: Mapping[str, int] = field(default_factory=dict)
    dropped: int = 0
    progress_at: float = 0.0
    finished_at: float | None = None
    environment: EnvironmentSpec | None = None
    episodes: Mapping[str, int] = field(default_factory=dict)
    samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRow:
    """One row: ``row`` is the line of the file, or the number of the task's prompt; both count from 1.

    ``weight`` is its weight in a mean: 1, for a loss its trained tokens. Without a ``score`` its
    grader or episode failed, and ``fault`` and ``message`` explain it. Texts are `kept`.
    """

    row: int
    score: float | None
    answer: str
    weight: float = 1.0
    fault: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRows:
    """The rows of a run; ``dropped`` were too long, ``episodes`` are those of an environment by outcome."""

    rows: Sequence[ScoredRow] = ()
    dropped: int = 0
    episodes: Mapping[str, int] = field(default_factory=dict)


def kept(text: str) -> str:
    """Return the stored part of a text that a model or a grader wrote."""
    return storable(text[:MAX_ANSWER])


def graded_row(row: int, text: str, grade: Grade | GraderFault) -> ScoredRow:
    """Return the row of an answer that was graded."""
    if isinstance(grade, GraderFault):
        fault, message = grade.kind, kept(grade.message)
        return ScoredRow(row=row, score=None, answer=kept(text), fault=fault, message=message)
    return ScoredRow(row=row, score=grade.reward, answer=kept(text))


def task_row(row: int, trajectories: Sequence[Trajectory]) -> ScoredRow:
    """Return the row of a task: the mean reward of its episodes, and the answer of the first that has one.

    An episode that failed, of whichever part, has none; if all did, so has the task.
    """
    ended = [each for each in trajectories if each.episode.reward is not None]
    if not ended:
        lost = trajectories[0].episode
        return ScoredRow(row=row, score=None, answer="", fault=lost.outcome, message=kept(lost.error))
    rewards = [each.episode.reward for each in ended if each.episode.reward is not None]
    answer = kept("\n".join(each.text for each in ended[0].segments))
    return ScoredRow(row=row, score=fsum(rewards) / len(rewards), answer=answer)


def episode_seed(run: EvaluationRun, place: int, sample: int) -> int:
    """Return the seed of an episode of the task at ``place``, the same in every run with the run's."""
    names = ("answer", place) if sample == 0 else ("answer", place, sample)
    return derive_seed(run.seed, *names)


def prompts_seed(run: EvaluationRun) -> int:
    """Return the seed that the run's prompts are drawn with: the same prompts for every revision."""
    return derive_seed(run.seed, "evaluation")


def plan_answer(
    run: EvaluationRun, place: int, *, prompt: str = "", tokens: tuple[int, ...] = ()
) -> GroupRequest:
    """Return the request for the answer to a prompt, the same however often the run is begun.

    ``place`` is the index of a task's ``prompt``, or the line of a row, whose prompt is given as ``tokens``.
    A place has the same seed in every run with the run's.
    """
    return GroupRequest(
        request_id=derive_id("req", run.run_id, place),
        tenant_id=run.tenant_id,
        base=run.base,
        revision=run.revision,
        prompt=prompt,
        prompt_tokens=tokens,
        n=1,
        max_new_tokens=run.max_new_tokens,
        temperature=run.temperature,
        seed=derive_seed(run.seed, "answer", place),
        logprobs_mode="raw",
        routes=False,
    )


def plan_reading(run: EvaluationRun, line: int, example: int, tokens: tuple[int, ...]) -> GroupRequest:
    """Return the request for the log-probabilities of one of a row's examples."""
    request = plan_answer(run, line, tokens=tokens)
    name = derive_id("req", run.run_id, line, example)
    return replace(request, request_id=name, max_new_tokens=1, temperature=0.0)


def scored(run: EvaluationRun, found: ScoredRows, *, error_share: float = 1.0, now: float) -> EvaluationRun:
    """Return the run with its score; a single score has no standard error.

    Fails the run when no row has a score, a grader failed on more than ``error_share`` of them, or the loss
    of any row is not finite: a mean without it would be better than the revision.
    """
    rows = found.rows
    faults = [row for row in rows if row.score is None]
    if faults and run.metric == LOSS:
        problem = (
            f"the loss of {len(faults)} of {len(rows)} rows is not finite; the first is row {faults[0].row}"
        )
        return failed(replace(run, dropped=found.dropped), problem, now=now)
    of_grader = {} if run.environment else dict(Counter(row.fault for row in faults))
    counted = replace(
        run, grader_errors=of_grader, episodes=found.episodes, dropped=found.dropped, finished_at=now
    )
    scores = [(row.score, row.weight) for row in rows if row.score is not None]
    if faults and (not scores or len(faults) > error_share * len(rows)):
        first = faults[0]
        what = "the environment failed" if run.environment else "the grader failed"
        problem = f"{what} on {len(faults)} of {len(rows)} answers; row {first.row}: {first.fault}"
        return failed(counted, f"{problem}: {first.message}", now=now)
    if not scores:
        return failed(counted, "no row is left to be scored: all are too long", now=now)
    value, stderr = weighted_mean(scores)
    return replace(counted, state=RunState.SUCCEEDED, scored=len(scores), value=value, stderr=stderr)


def weighted_mean(scores: Sequence[tuple[float, float]]) -> tuple[float, float | None]:
    """Return the mean of (score, weight) and its standard error, None of a single score.

    The standard error is that of a ratio estimator; with equal weights it is the one of a plain mean.
    """
    n, total = len(scores), fsum(weight for _, weight in scores)
    mean = fsum(score * weight for score, weight in scores) / total
    if n == 1:
        return mean, None
    squares = fsum(((score - mean) * weight) ** 2 for score, weight in scores)
    return mean, sqrt(squares * n / (n - 1)) / total


def reason_of(run: EvaluationRun, error: MintError) -> str:
    """Return why a run failed; if its file was deleted, say so instead of the store's error."""
    file = None if run.data is None else run.data.file
    if file is not None and isinstance(error, BlobMissing) and error.uri == file.content.uri:
        return f"{file.filename} ({file.file_id}) {DELETED}"
    return str(error)


def failed(run: EvaluationRun, reason: str, *, now: float) -> EvaluationRun:
    """Return the run ended without a score."""
    return replace(run, state=RunState.FAILED, reason=kept(reason), value=None, stderr=None, finished_at=now)
