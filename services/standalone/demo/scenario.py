"""The steps of the demo: train, evaluate, promote, roll back."""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.core.jobs import Ref
from mint_client.core.refusals import LocalFailureError
from mint_client.core.tables import DIGEST_CHARACTERS
from mint_client.views.job import JobObserver, follow_job
from services.standalone.core.plan import DType
from services.standalone.demo.checks import AliasAnswer, DemoResult, contrasting_prompt
from services.standalone.demo.requests import (
    Evaluation,
    HeldoutPrompt,
    Move,
    Recipe,
    create_policy,
    evaluate,
    heldout_prompts,
    recipe_of,
    submit_job,
)

POLICY = "demo"
SUITE = "heldout-greedy"
HELDOUT_SEED = 1
_PATH = path_of("policies", POLICY)
_PROD = f"{_PATH}/aliases/prod"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Task and base of a demo; ``steps`` None is the task's recommendation."""

    base: str
    task: str
    num_prompts: int
    steps: int | None
    dtype: DType


def run_scenario(api: PublicApi, scenario: Scenario, *, watch: JobObserver, say: Say) -> DemoResult:
    """Run it from the policy's creation to the last promotion. Raises LocalFailureError: the job failed."""
    task = scenario.task
    recipe = recipe_of(api, task)
    create_policy(api, POLICY, scenario.base, rank=recipe.rank, alpha=recipe.alpha)
    job_id = submit_job(api, POLICY, task, steps=scenario.steps or recipe.steps)
    job = follow_job(api, job_id, watch)
    revisions = msgspec.convert(api.get(f"{_PATH}/revisions"), tuple[Ref, ...])
    if job.state != "succeeded" or not revisions:
        raise LocalFailureError(
            what=f"job {job_id}", problem=f"it {job.state}: {job.reason or 'no revision'}"
        )
    prompts = heldout_prompts(api, task, scenario.num_prompts, seed=HELDOUT_SEED)
    evaluations = _evaluate_all(api, scenario, recipe, revisions, prompts=prompts, say=say)
    best = _best_revision(api)
    _, first, last = evaluations
    contrast = contrasting_prompt(first, last if best == revisions[-1].number else first)
    to_best = next(ref for ref in revisions if ref.number == best)

    def ask(why: str, number: int) -> AliasAnswer:
        question = prompts[contrast or 0].text
        answer = api.complete(f"{POLICY}@prod", question, max_tokens=recipe.max_new_tokens)
        digest = answer.header[:DIGEST_CHARACTERS]
        say(f"prod -> revision {number} ({why}): {question!r} -> {answer.text!r} by {digest}")
        return AliasAnswer(alias_target=f"{number}: {why}", number=number, answer=answer)

    answers = _move_prod(api, revisions[0], to_best, ask)
    return DemoResult(
        base=scenario.base,
        dtype=scenario.dtype,
        task=task,
        job=job,
        revisions=revisions,
        prompts=prompts,
        evaluations=evaluations,
        contrast=contrast,
        alias_answers=answers,
        alias_history=msgspec.convert(api.get(_PROD)["history"], tuple[Move, ...]),
    )


def _evaluate_all(
    api: PublicApi,
    scenario: Scenario,
    recipe: Recipe,
    revisions: tuple[Ref, ...],
    *,
    prompts: tuple[HeldoutPrompt, ...],
    say: Say,
) -> tuple[Evaluation, Evaluation, Evaluation]:
    """Evaluate base, first and last revision through the served endpoint; record those of the revisions."""

    def score(model: str) -> Evaluation:
        found = evaluate(api, model, scenario.task, prompts, max_tokens=recipe.max_new_tokens)
        say(f"held-out accuracy of {model}: {found.accuracy:.3f} (n = {len(prompts)})")
        return found

    def score_revision(ref: Ref) -> Evaluation:
        found = score(f"{POLICY}@{ref.number}")
        scored = {"metric": "accuracy", "value": found.accuracy, "n": len(prompts)}
        api.post(f"{_PATH}/evaluations", {"revision": ref.number, "suite": SUITE, **scored})
        return found

    return score(scenario.base), score_revision(revisions[0]), score_revision(revisions[-1])


def _best_revision(api: PublicApi) -> int:
    """Return the number of the revision with the best recorded accuracy; the newest of equals."""
    found = api.get(f"{_PATH}/evaluations")
    return int(max((row["value"], row["number"]) for row in found if row["suite"] == SUITE)[1])


def _move_prod(
    api: PublicApi, first: Ref, best: Ref, ask: Callable[[str, int], AliasAnswer]
) -> tuple[AliasAnswer, ...]:
    """Move `prod` to the first revision, to the best, back, and to the best again; ask after each move."""

    def promote(ref: Ref, *, expected: str, reason: str = "best held-out accuracy") -> None:
        api.put(_PROD, {"revision": ref.number, "expected": expected, "reason": reason})

    promote(first, expected="", reason="the first revision")
    answers = [ask("promoted", first.number)]
    promote(best, expected=first.digest)
    answers.append(ask("promoted", best.number))
    api.post(f"{_PROD}/rollback", {"expected": best.digest, "reason": "show a rollback"})
    answers.append(ask("rolled back", first.number))
    promote(best, expected=first.digest)
    answers.append(ask("promoted again", best.number))
    return tuple(answers)
