"""What the demo does: train, evaluate, promote, roll back."""

from collections.abc import Callable
from dataclasses import dataclass

from mint_common.errors import Unavailable
from services.standalone.adapters.public_api import PublicApi
from services.standalone.core.jobs import Ref
from services.standalone.core.plan import DType
from services.standalone.demo.checks import AliasAnswer, DemoResult, contrasting_prompt
from services.standalone.demo.records import Evaluation, HeldoutPrompt, Recipe
from services.standalone.demo.requests import (
    best_revision,
    create_policy,
    evaluate,
    heldout_prompts,
    promote,
    read_prod,
    recipe_of,
    record_accuracy,
    revisions_of,
    roll_back,
    submit_job,
)
from services.standalone.views.job import JobObserver, follow_job

POLICY = "demo"
SUITE = "heldout-greedy"
HELDOUT_SEED = 1

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is trained on what; ``steps`` None is what the task recommends."""

    base: str
    task: str
    num_prompts: int
    steps: int | None
    dtype: DType


def run_scenario(api: PublicApi, scenario: Scenario, *, watch: JobObserver, say: Say) -> DemoResult:
    """Run it from the policy's creation to the last promotion. Raises Unavailable when the job fails."""
    task = scenario.task
    recipe = recipe_of(api, task)
    create_policy(api, POLICY, scenario.base, rank=recipe.rank, alpha=recipe.alpha)
    job_id = submit_job(api, POLICY, task, steps=scenario.steps or recipe.steps)
    job = follow_job(api, job_id, watch)
    revisions = revisions_of(api, POLICY)
    if job.state != "succeeded" or not revisions:
        raise Unavailable(what=f"job {job_id}", problem=f"it {job.state}: {job.reason or 'no revision'}")
    prompts = heldout_prompts(api, task, scenario.num_prompts, seed=HELDOUT_SEED)
    evaluations = _evaluate_all(api, scenario, recipe, revisions, prompts=prompts, say=say)
    best = best_revision(api, POLICY, suite=SUITE)
    _, first, last = evaluations
    contrast = contrasting_prompt(first, last if best == revisions[-1].number else first)
    asker = Asker(api=api, question=prompts[contrast or 0].text, max_tokens=recipe.max_new_tokens, say=say)
    answers = _move_prod(asker, revisions[0], next(ref for ref in revisions if ref.number == best))
    return DemoResult(
        base=scenario.base,
        dtype=scenario.dtype,
        task=task,
        job=job,
        revisions=revisions,
        prompts=prompts,
        evaluations=evaluations,
        best=best,
        contrast=contrast,
        alias_answers=answers,
        alias_history=read_prod(api, POLICY).history,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Asks `policy@prod` one and the same question."""

    api: PublicApi
    question: str
    max_tokens: int
    say: Say

    def ask(self, why: str, number: int) -> AliasAnswer:
        """Ask after a move of the alias to a revision."""
        answer = self.api.complete(f"{POLICY}@prod", self.question, max_tokens=self.max_tokens)
        self.say(
            f"prod -> revision {number} ({why}): {self.question!r} -> {answer.text!r} by {answer.header[:19]}"
        )
        return AliasAnswer(alias_target=f"{number}: {why}", number=number, answer=answer)


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
        record_accuracy(api, POLICY, ref.number, suite=SUITE, value=found.accuracy, n=len(prompts))
        return found

    return score(scenario.base), score_revision(revisions[0]), score_revision(revisions[-1])


def _move_prod(asker: Asker, first: Ref, best: Ref) -> tuple[AliasAnswer, ...]:
    """Move `prod` to the first revision, to the best, back, and to the best again; ask after each move."""
    api, why_best = asker.api, "best held-out accuracy"
    promote(api, POLICY, first.number, expected="", reason="the first revision")
    answers = [asker.ask("promoted", first.number)]
    promote(api, POLICY, best.number, expected=first.digest, reason=why_best)
    answers.append(asker.ask("promoted", best.number))
    roll_back(api, POLICY, expected=best.digest, reason="show a rollback")
    answers.append(asker.ask("rolled back", first.number))
    promote(api, POLICY, best.number, expected=first.digest, reason=why_best)
    answers.append(asker.ask("promoted again", best.number))
    return tuple(answers)
