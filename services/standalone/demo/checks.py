"""The checks of the demo: a pure function of its observations."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from mint_client.adapters.public_api import Completed
from mint_client.core.jobs import JobNow, Ref
from services.standalone.core.plan import DType
from services.standalone.demo.requests import Evaluation, HeldoutPrompt, Move

MIN_RISE = 0.2
RATIO_LIMIT = 1e-3
KL_LIMIT = 0.01
"""Limit of the divergence. In bfloat16 single ratios are far from 1 where neither side is sure; their
divergence stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasAnswer:
    """What `policy@prod` answered after one move of the alias; ``number`` is where the move pointed it."""

    alias_target: str
    number: int
    answer: Completed


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The observations of a demo. ``evaluations`` are of the base, the first and the last revision."""

    base: str
    dtype: DType
    task: str
    job: JobNow
    revisions: tuple[Ref, ...]
    prompts: tuple[HeldoutPrompt, ...]
    evaluations: tuple[Evaluation, Evaluation, Evaluation]
    contrast: int | None
    """The index of a prompt that the first and the best revision answer differently."""
    alias_answers: tuple[AliasAnswer, ...]
    alias_history: tuple[Move, ...]

    @property
    def ratio_max_error(self) -> float:
        """Return the largest distance from 1 of any importance ratio of a fresh rollout."""
        errors = [step.ratio_max_error for step in self.job.steps if step.ratio_max_error is not None]
        return max(errors, default=float("inf"))

    @property
    def sampler_kl(self) -> float:
        """Return the divergence of the sampler from the trainer, a token, as the mean of all steps."""
        found = [step.sampler_kl for step in self.job.steps if step.sampler_kl is not None]
        return fmean(found) if found else float("inf")


def _agrees(result: DemoResult) -> bool:
    if result.dtype == "bfloat16":
        return result.sampler_kl <= KL_LIMIT
    return result.ratio_max_error <= RATIO_LIMIT


def contrasting_prompt(first: Evaluation, best: Evaluation) -> int | None:
    """Return the prompt whose answers differ, one that only ``best`` gets right if there is any."""
    differing = [
        index
        for index, (one, other) in enumerate(zip(first.answers, best.answers, strict=True))
        if one.text != other.text
    ]
    return max(differing, key=lambda index: best.rewards[index] - first.rewards[index], default=None)


def check_all(result: DemoResult) -> dict[str, bool]:
    """Return every check by name; the demo succeeds when all are true."""
    base, first, last = result.evaluations
    digests = {ref.number: ref.digest for ref in result.revisions}
    return {
        "job_succeeded": result.job.state == "succeeded",
        "revisions_numbered_without_gap": sorted(digests) == list(range(1, len(digests) + 1)),
        "revisions_are_the_jobs": _trained(result.job) == [ref.digest for ref in result.revisions],
        "accuracy_rose": last.accuracy - base.accuracy >= MIN_RISE,
        "rollout_and_trainer_agree": _agrees(result),
        "base_answers_name_the_base": _all_from(base.answers, f"base:{result.base}"),
        "first_answers_name_its_digest": _all_from(first.answers, digests[1]),
        "last_answers_name_its_digest": _all_from(last.answers, digests[max(digests)]),
        "prod_answers_name_its_digest": all(
            each.answer.is_from(digests[each.number]) for each in result.alias_answers
        ),
        "prod_answers_as_each_revision_did": _same_texts(result),
        "rollback_changed_the_answer": len({each.answer.text for each in result.alias_answers}) > 1,
        "history_has_every_move": [move.digest for move in result.alias_history]
        == [digests[each.number] for each in result.alias_answers],
    }


def _trained(job: JobNow) -> list[str]:
    """Return the digests that the job's steps published, each once."""
    return list(dict.fromkeys(step.revision.digest for step in job.steps if step.revision is not None))


def _all_from(answers: Sequence[Completed], digest: str) -> bool:
    return all(answer.is_from(digest) for answer in answers)


def _same_texts(result: DemoResult) -> bool:
    """Return whether the alias answered exactly like the revision that it pointed at."""
    if result.contrast is None:
        return False
    _, first, last = result.evaluations
    before = {1: first, result.revisions[-1].number: last}
    return all(
        each.answer.text == before[each.number].answers[result.contrast].text for each in result.alias_answers
    )
