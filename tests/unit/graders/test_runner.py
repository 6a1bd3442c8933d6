"""Graders run side by side: faults stay with their samples, tenants do not hold each other up."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mint_common.errors import InvalidField, MintError, NotFound, SettingInvalid, Unavailable
from mint_common.graders import Grade, GradedSample, GraderFault, read_grader
from mint_common.graders.similarity import METRICS
from mint_common.graders.specs import GraderNotSupported
from mint_common.ids import TenantId
from mint_common.runtime.graders.judge import JudgeAnswer, MakeQuestion, Question
from mint_common.runtime.graders.open import open_graders
from mint_common.runtime.graders.process import ProcessSandbox, SandboxUnavailable
from mint_common.runtime.graders.runner import GraderRunner
from mint_common.settings import GraderSettings
from tests.testing.factories import EXACT

TENANT, OTHER = TenantId("ten-a"), TenantId("ten-b")
PYTHON = {
    "type": "python",
    "name": "p",
    "source": "def grade(sample, item):\n    return len(sample['output_text']) / item['length']",
}
ENDLESS = {**PYTHON, "source": "def grade(sample, item):\n    while True: pass"}
SCORE = {
    "type": "score_model",
    "name": "s",
    "model": "judge@1",
    "input": [
        {"role": "developer", "content": "Score it."},
        {"role": "user", "content": "{{ sample.output_text }} for {{ item.answer }}"},
    ],
    "range": [0, 10],
}


class EchoingJudge:
    """Answers with what it was asked, and refuses all models but one."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    async def check(self, model: str, *, tenant_id: TenantId, field: str) -> None:
        if model != "judge@1":
            raise InvalidField(field=field, problem="is not there")

    async def ask(self, make: MakeQuestion, *, tenant_id: TenantId) -> JudgeAnswer:
        question = await make()
        self.asked.append(question)
        if "away" in question.messages[-1].content:
            raise NotFound(kind="model", name=question.model)
        return JudgeAnswer(text=question.messages[-1].content, is_cut=False)


@pytest.fixture
def judge() -> EchoingJudge:
    return EchoingJudge()


@pytest.fixture
async def runner(judge) -> AsyncIterator[GraderRunner]:
    pytest.importorskip("pydantic_monty")
    settings = GraderSettings(grader_seconds=1.0)
    async with open_graders(settings, judge, service="rollout", workers=2) as runner:
        yield runner


def samples(*texts: str, **item: object) -> list[GradedSample]:
    return [GradedSample(output_text=text, item={"length": 4, "answer": "5", **item}) for text in texts]


async def grade(runner: GraderRunner, grader: object, *texts: str, **item: object) -> list[float | str]:
    found = await runner.grade(read_grader(grader), samples(*texts, **item), tenant_id=TENANT)
    return [each.kind if isinstance(each, GraderFault) else each.reward for each in found]


async def test_every_kind_gives_rewards_in_the_order_of_the_samples(runner, judge) -> None:
    assert await grade(runner, EXACT, "5", "6", "5") == [1, 0, 1]
    assert await grade(runner, PYTHON, "ab", "", "abcd") == [0.5, 0, 1]
    assert await grade(runner, SCORE, "7", "8 or", "none") == [5, 5, 5]
    assert await grade(runner, SCORE, "7", answer="this") == [7]
    assert [message.role for message in judge.asked[0].messages] == ["developer", "user"]
    assert judge.asked[0].temperature == 0


async def test_a_fault_stays_with_its_sample(runner) -> None:
    assert await grade(runner, PYTHON, "ab", length=0) == ["python_grader_runtime_error"]
    assert await grade(runner, SCORE, "none", "away", answer="that") == [
        "model_grader_parse_error",
        "model_grader_server_error",
    ]
    found = await runner.grade(
        read_grader(PYTHON), [*samples("ab", length=0), *samples("ab")], tenant_id=TENANT
    )
    assert isinstance(found[0], GraderFault)
    assert found[1] == Grade(reward=0.5)


async def test_an_error_of_ours_stays_with_its_sample(runner, monkeypatch) -> None:
    def broken(_text: str, _reference: str) -> float:
        raise RecursionError

    monkeypatch.setitem(METRICS, "rouge_5", broken)
    alike = {**EXACT, "type": "text_similarity", "evaluation_metric": "rouge_5"}
    del alike["operation"]
    assert await grade(runner, alike, "5", "6") == ["other_error", "other_error"]


async def test_a_formula_takes_all_kinds_and_a_part_s_fault_is_its_own(runner) -> None:
    both = {
        "type": "multi",
        "name": "m",
        "graders": {"p": PYTHON, "s": SCORE, "e": EXACT},
        "calculate_output": "p + s + e",
    }
    (found,) = await runner.grade(read_grader(both), samples("5"), tenant_id=TENANT)
    assert found == Grade(reward=6.25, sub_rewards={"p": 0.25, "s": 5, "e": 1})
    assert await grade(runner, both, "5", length=0) == ["python_grader_runtime_error"]


async def test_what_cannot_grade_is_refused_by_its_field(runner) -> None:
    parts = {"good": PYTHON, "bad": {**PYTHON, "source": "def grade("}}
    multi = {"type": "multi", "name": "m", "graders": parts, "calculate_output": "good"}
    for grader, field in (
        ({**PYTHON, "source": "x = 1"}, "grader.source"),
        (multi, "grader.graders.bad.source"),
        ({**SCORE, "model": "judge@prod"}, "grader.model"),
    ):
        with pytest.raises(InvalidField) as refused:
            await runner.check(read_grader(grader), tenant_id=TENANT)
        assert refused.value.field == field
    for grader in (EXACT, PYTHON, SCORE):
        await runner.check(read_grader(grader), tenant_id=TENANT)


async def test_one_tenant_s_endless_sources_hold_up_no_other(runner) -> None:
    endless = asyncio.create_task(runner.grade(read_grader(ENDLESS), samples(*"abcd"), tenant_id=TENANT))
    await asyncio.sleep(0)
    honest = asyncio.create_task(runner.grade(read_grader(PYTHON), samples("ab"), tenant_id=OTHER))
    done, _ = await asyncio.wait((endless, honest), return_when=asyncio.FIRST_COMPLETED)
    assert done == {honest}
    assert await grade(runner, EXACT, "5") == [1]
    endless.cancel()
    await asyncio.gather(endless, return_exceptions=True)


async def test_python_graders_can_be_turned_off(judge) -> None:
    async with open_graders(GraderSettings(graders="off"), judge, service="rollout") as runner:
        with pytest.raises(GraderNotSupported):
            await runner.check(read_grader(PYTHON), tenant_id=TENANT)
        assert await grade(runner, PYTHON, "ab") == ["python_grader_server_error"]
        assert await grade(runner, EXACT, "5") == [1]


async def test_a_sandbox_that_does_not_run_is_no_fault_of_the_source(judge) -> None:
    sandbox = ProcessSandbox(workers=1, seconds=1.0, memory_bytes=64 << 20)
    sandbox.close()
    runner = GraderRunner(judge=judge, sandbox=sandbox, workers=1)
    with pytest.raises(Unavailable):
        await runner.check(read_grader(PYTHON), tenant_id=TENANT)
    runner.close()


async def test_a_system_that_cannot_confine_refuses_the_setting(judge, monkeypatch) -> None:
    def refuse(_sandbox: ProcessSandbox) -> None:
        raise SandboxUnavailable("This kernel has no Landlock.")

    monkeypatch.setattr(ProcessSandbox, "start", refuse)
    with pytest.raises(SettingInvalid, match=r"MINT_ROLLOUT_GRADERS.*no Landlock"):
        async with open_graders(GraderSettings(graders="process"), judge, service="rollout"):
            pass


async def test_processes_grade_as_the_interpreter_does(judge) -> None:
    try:
        async with open_graders(GraderSettings(graders="process"), judge, service="rollout") as runner:
            assert await grade(runner, PYTHON, "ab", "abcd") == [0.5, 1]
    except MintError as error:
        pytest.skip(str(error))
