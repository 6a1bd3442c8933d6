"""An evaluation run: a revision answers held-out prompts of a task, and the mean reward is its score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import sqrt
from statistics import fmean, stdev

from mint_common.authority import Caller
from mint_common.claims import RevisionRef
from mint_common.ids import BaseName, PolicyId, TenantId, derive_id
from mint_common.records import Prompt
from services.rollout.core.sampling import GroupRequest
from services.rollout.core.task import derive_seed

METRIC = "reward"


class RunState(StrEnum):
    """The state of a run."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRun:
    """A run after its last change: ``n`` prompts, one answer each; ``caller`` signs the score.

    ``scored`` answers have a reward, ``value`` is their mean and ``stderr`` its standard error.
    ``progress_at`` is the time of the last progress, 0 before the first.
    """

    run_id: str
    tenant_id: TenantId
    base: BaseName
    policy_id: PolicyId
    policy: str
    revision: RevisionRef
    task: str
    n: int
    seed: int
    temperature: float
    max_new_tokens: int
    caller: Caller
    created_at: float
    state: RunState = RunState.RUNNING
    reason: str = ""
    scored: int = 0
    value: float | None = None
    stderr: float | None = None
    progress_at: float = 0.0
    finished_at: float | None = None


def prompts_seed(run: EvaluationRun) -> int:
    """Return the seed that the run's prompts are drawn with: the same prompts for every revision."""
    return derive_seed(run.seed, "evaluation")


def plan_answers(run: EvaluationRun, prompts: Sequence[Prompt]) -> list[GroupRequest]:
    """Return one request for each prompt, the same ones however often the run is begun."""
    return [
        GroupRequest(
            request_id=derive_id("req", run.run_id, index),
            tenant_id=run.tenant_id,
            base=run.base,
            revision=run.revision,
            prompt=prompt.text,
            n=1,
            max_new_tokens=run.max_new_tokens,
            temperature=run.temperature,
            seed=derive_seed(run.seed, "answer", index),
            logprobs_mode="raw",
            routes=False,
        )
        for index, prompt in enumerate(prompts)
    ]


def scored(run: EvaluationRun, rewards: Sequence[float], *, now: float) -> EvaluationRun:
    """Return the run with its score; a single reward has no standard error."""
    return replace(
        run,
        state=RunState.SUCCEEDED,
        scored=len(rewards),
        value=fmean(rewards),
        stderr=stdev(rewards) / sqrt(len(rewards)) if len(rewards) > 1 else None,
        finished_at=now,
    )


def failed(run: EvaluationRun, reason: str, *, now: float) -> EvaluationRun:
    """Return the run ended without a score."""
    return replace(run, state=RunState.FAILED, reason=reason, finished_at=now)
