"""Questions to engines have turns: few are in memory at a time, and one that waits holds up no other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from mint_common.catalog import Resolution
from mint_common.client.attempts import MAX_FAILURES, NoAnswer
from mint_common.errors import EngineFailed, MintError, NotFound, Unavailable
from mint_common.graders import GradedSample, GraderFault, read_grader
from mint_common.graders.grade import MAX_FILLED
from mint_common.ids import TenantId
from mint_common.runtime.graders.judge import QUESTIONS, TENANT_QUESTIONS, EngineJudge, Question
from mint_common.runtime.graders.open import open_graders
from mint_common.runtime.graders.runner import GraderRunner
from mint_common.settings import GraderSettings
from tests.testing.clock import ManualClock, settle

A, B, OTHER = (TenantId(f"ten-{name}") for name in "abo")


def score(model: str, *templates: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": template} for template in templates]
    return {"type": "score_model", "name": "s", "model": model, "input": messages}


@asynccontextmanager
async def grading(resolve: Callable[[TenantId, str], Awaitable[Resolution]]) -> AsyncIterator[GraderRunner]:
    """A runner whose judge finds models as ``resolve`` does, which lets none reach an engine."""
    judge = EngineJudge(None, resolve, ManualClock(), limit_seconds=20.0)  # type: ignore[arg-type]
    async with open_graders(GraderSettings(graders="off"), judge, service="rollout") as runner:
        yield runner


class CountedRow(dict[str, Any]):
    """Counts how often a template has read it."""

    reads = 0

    def __contains__(self, name: object) -> bool:
        self.reads += 1
        return super().__contains__(name)


async def test_a_question_is_made_when_its_turn_has_come() -> None:
    asked = 0
    are_full = asyncio.Event()

    async def resolve(tenant_id: TenantId, model: str) -> Resolution:
        nonlocal asked
        asked += 1
        if asked == TENANT_QUESTIONS:
            are_full.set()
        return await asyncio.Future[Resolution]()

    row = CountedRow(text="long")
    samples = [GradedSample(output_text="a", item=row)] * (4 * TENANT_QUESTIONS)
    async with grading(resolve) as runner:
        spec = read_grader(score("judge@1", "{{ item.text }}"))
        grading_all = asyncio.create_task(runner.grade(spec, samples, tenant_id=A))
        await are_full.wait()
        assert row.reads == TENANT_QUESTIONS
        grading_all.cancel()
        await asyncio.gather(grading_all, return_exceptions=True)


async def test_questions_that_wait_to_be_asked_again_hold_no_turn() -> None:
    tried = 0
    all_tried = asyncio.Event()

    async def resolve(tenant_id: TenantId, model: str) -> Resolution:
        nonlocal tried
        if model == "gone@1":
            raise NotFound(kind="policy", name="gone")
        tried += 1
        if tried == 2 * QUESTIONS:
            all_tried.set()
        raise Unavailable(what="an engine", problem="it starts")

    samples = [GradedSample(output_text="a")]
    away, gone = read_grader(score("away@1", "a")), read_grader(score("gone@1", "a"))
    async with grading(resolve) as runner:
        waiting = [
            asyncio.create_task(runner.grade(away, samples * QUESTIONS, tenant_id=tenant))
            for tenant in (A, B)
        ]
        await all_tried.wait()
        (found,) = await runner.grade(gone, samples, tenant_id=OTHER)
        assert isinstance(found, GraderFault)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_an_engine_that_fails_on_a_question_is_asked_three_times() -> None:
    """One that answered 500 was asked until the time limit; one that is away is."""
    asked = {"failing@1": 0, "away@1": 0}

    async def resolve(tenant_id: TenantId, model: str) -> Resolution:
        asked[model] += 1
        if model == "away@1":
            raise Unavailable(what="an engine", problem="it starts")
        raise EngineFailed(problem="500")

    clock = ManualClock()
    judge = EngineJudge(None, resolve, clock, limit_seconds=300.0)  # type: ignore[arg-type]
    question = Question(model="", messages=(), temperature=0.0, top_p=1.0, max_completion_tokens=1)

    async def ask(model: str) -> MintError:
        async def make() -> Question:
            return msgspec.structs.replace(question, model=model)

        with pytest.raises(MintError) as raised:
            await judge.ask(make, tenant_id=A)
        return raised.value

    asking = [asyncio.create_task(ask(model)) for model in asked]
    for _ in range(120):
        await settle()
        await clock.advance(5.0)
    failing, away = await asyncio.gather(*asking)
    assert asked["failing@1"] == MAX_FAILURES < asked["away@1"]
    assert isinstance(failing, NoAnswer)
    assert isinstance(away, NoAnswer)
    assert "it starts" in str(away)


async def test_the_messages_of_a_question_are_bounded_together() -> None:
    async def resolve(tenant_id: TenantId, model: str) -> Resolution:
        pytest.fail("the question is not to be asked")

    sample = GradedSample(output_text="a" * (MAX_FILLED // 2 + 1))
    async with grading(resolve) as runner:
        spec = read_grader(score("judge@1", "{{ sample.output_text }}", "{{ sample.output_text }}"))
        (found,) = await runner.grade(spec, [sample], tenant_id=A)
    assert isinstance(found, GraderFault)
    assert found.kind == "other_error"
