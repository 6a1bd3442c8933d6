"""The story itself: train, evaluate, promote, roll back."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mint_common.errors import Unavailable
from services.standalone.demo.client import MintClient
from services.standalone.demo.records import TERMINAL, Adapter, Evaluation, Job, Prompt, Recipe, Ref
from services.standalone.demo.verdict import AliasAnswer, Story, contrasting_prompt

POLICY = "demo"
SUITE = "heldout-greedy"
POLL_SECONDS = 0.5
HELDOUT_SEED = 1

Watch = Callable[[Job, tuple[Adapter, ...]], None]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """What the story is about; ``steps`` None is what the task recommends."""

    base: str
    task: str
    num_prompts: int
    steps: int | None


async def tell(client: MintClient, plot: Plot, *, watch: Watch, say: Say) -> Story:
    """Live through the whole story. Raises Unavailable when the API refuses or the job fails."""
    recipe = await client.recipe(plot.task)
    await client.create_policy(POLICY, plot.base, rank=recipe.rank, alpha=recipe.alpha)
    job_id = await client.submit(POLICY, plot.task, steps=plot.steps or recipe.steps)
    job = await _follow(client, job_id, watch)
    revisions = await client.revisions(POLICY)
    if job.state != "succeeded" or not revisions:
        raise Unavailable(what=f"job {job_id}", problem=f"it {job.state}: {job.reason or 'no revision'}")
    prompts = await client.heldout_prompts(plot.task, plot.num_prompts, seed=HELDOUT_SEED)
    evaluations = await _evaluate(client, plot, recipe, revisions, prompts=prompts, say=say)
    best = await client.best_revision(POLICY, suite=SUITE)
    _, first, last = evaluations
    contrast = contrasting_prompt(first, last if best == revisions[-1].number else first)
    asker = Asker(
        client=client,
        question=prompts[contrast or 0].text,
        max_tokens=recipe.max_new_tokens,
        say=say,
    )
    answers = await _move_prod(asker, revisions[0], _by_number(revisions, best))
    return Story(
        base=plot.base,
        task=plot.task,
        job=job,
        revisions=revisions,
        prompts=prompts,
        evaluations=evaluations,
        best=best,
        contrast=contrast,
        alias_answers=answers,
        alias_history=(await client.prod(POLICY)).history,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Asks `policy@prod` one and the same question."""

    client: MintClient
    question: str
    max_tokens: int
    say: Say

    async def ask(self, why: str, number: int) -> AliasAnswer:
        """Ask after a move of the alias to a revision."""
        answer = await self.client.complete(f"{POLICY}@prod", self.question, max_tokens=self.max_tokens)
        self.say(
            f"prod -> revision {number} ({why}): {self.question!r} -> {answer.text!r} by {answer.header[:19]}"
        )
        return AliasAnswer(alias_target=f"{number}: {why}", number=number, answer=answer)


async def _follow(client: MintClient, job_id: str, watch: Watch) -> Job:
    while True:
        job = await client.job(job_id)
        watch(job, await client.adapters())
        if job.state in TERMINAL:
            return job
        await asyncio.sleep(POLL_SECONDS)


async def _evaluate(
    client: MintClient,
    plot: Plot,
    recipe: Recipe,
    revisions: tuple[Ref, ...],
    *,
    prompts: tuple[Prompt, ...],
    say: Say,
) -> tuple[Evaluation, Evaluation, Evaluation]:
    """Evaluate base, first and last revision through the served endpoint; record those of the revisions."""

    async def evaluate(model: str) -> Evaluation:
        found = await client.evaluate(model, plot.task, prompts, max_tokens=recipe.max_new_tokens)
        say(f"held-out accuracy of {model}: {found.accuracy:.3f} (n = {len(prompts)})")
        return found

    async def evaluate_revision(ref: Ref) -> Evaluation:
        found = await evaluate(f"{POLICY}@{ref.number}")
        await client.record_evaluation(POLICY, ref.number, suite=SUITE, value=found.accuracy, n=len(prompts))
        return found

    base = await evaluate(plot.base)
    return base, await evaluate_revision(revisions[0]), await evaluate_revision(revisions[-1])


async def _move_prod(asker: Asker, first: Ref, best: Ref) -> tuple[AliasAnswer, ...]:
    """Move `prod` to the first revision, to the best, back, and to the best again; ask after each move."""
    client, why_best = asker.client, "best held-out accuracy"
    await client.promote(POLICY, first.number, expected="", reason="the first revision")
    answers = [await asker.ask("promoted", first.number)]
    await client.promote(POLICY, best.number, expected=first.digest, reason=why_best)
    answers.append(await asker.ask("promoted", best.number))
    await client.roll_back(POLICY, expected=best.digest, reason="show a rollback")
    answers.append(await asker.ask("rolled back", first.number))
    await client.promote(POLICY, best.number, expected=first.digest, reason=why_best)
    answers.append(await asker.ask("promoted again", best.number))
    return tuple(answers)


def _by_number(revisions: tuple[Ref, ...], number: int) -> Ref:
    return next(ref for ref in revisions if ref.number == number)
