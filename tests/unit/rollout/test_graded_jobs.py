"""Jobs whose samples are graded: prompts as rendered, rewards of the grader, its errors counted."""

from collections.abc import Sequence
from typing import Any

import pytest

from mint_common.graders import Grade, GradedSample, GraderFault, GraderSpec
from mint_common.ids import TenantId
from mint_common.records import decode_rows
from services.rollout.core.fault import DataRefused
from services.rollout.core.grading import check_budget
from services.rollout.handlers.graded_samples import CALLS, TOGETHER
from tests.testing.clock import ManualClock
from tests.unit.rollout.file_jobs import (
    TinyRendering,
    complete,
    job_of,
    on_file,
    record_of,
    refused,
    store,
)
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import ScriptedEngine


def questions(count: int, **more: object) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": f"{n}?"}], "answer": str(n % 2), **more}
        for n in range(count)
    ]


@pytest.fixture
def rig() -> Rig:
    return Rig(
        rendering=TinyRendering(), engine=ScriptedEngine(answer=lambda _, seed: "1" if seed % 4 else "0")
    )


async def test_rendered_prompts_are_sampled_and_graded_with_their_rows(rig: Rig) -> None:
    event = on_file(await store(rig, questions(3)), batch=3)
    assert event.spec.algorithm == "grpo"
    wave = await rig.begin(event)
    done = await complete(rig, wave)
    rows = decode_rows(await rig.blobs.get(wave.prompts))
    groups = (await record_of(rig, done.record)).groups
    assert len(groups) == len(rows) == 3
    for group, request, row in zip(groups, rig.engine.requests, rows, strict=True):
        assert (request.prompt, request.prompt_tokens) == ("", group.prompt_tokens)
        answer = "1" if b'"answer":"1"' in row.data else "0"
        assert [sample.reward for sample in group.samples] == [
            float(sample.text == answer) for sample in group.samples
        ]
        assert all(len(sample.logprobs) == len(sample.tokens) for sample in group.samples)
    assert len({group.prompt_tokens for group in groups}) == 3
    rewards = [sample.reward for group in groups for sample in group.samples]
    assert done.reward_mean == sum(rewards) / 12
    assert set(rewards) == {0.0, 1.0}


async def test_a_sample_that_cannot_be_graded_is_left_out_and_counted(rig: Rig) -> None:
    rows = questions(4)
    del rows[1]["answer"]
    wave = await rig.begin(on_file(await store(rig, rows)))
    done = await complete(rig, wave)
    record = await record_of(rig, done.record)
    assert [len(group.samples) for group in record.groups] == [4, 4, 4]
    (stored,) = await rig.jobs.waves_of(wave.job_id)
    assert stored.counts.grader_errors == {"invalid_variable_error": 4}


async def test_a_wave_of_which_most_cannot_be_graded_fails_the_job_with_a_sample(rig: Rig) -> None:
    rows = questions(4)
    for row in rows[1:]:
        del row["answer"]
    await refused(rig, await rig.begin(on_file(await store(rig, rows))))
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.param, fault.line) == ("grader_errors", "grader", None)
    assert fault.message == (
        "The grader failed on at least 12 of 16 samples: invalid_variable_error 12 times, such as: there is"
        " no item.answer"
    )


async def test_a_prompt_that_leaves_no_room_for_an_answer_is_too_long(rig: Rig) -> None:
    rows = [{"messages": [{"role": "user", "content": "a" * 60}], "answer": "1"}]
    await refused(rig, await rig.begin(on_file(await store(rig, rows), max_new_tokens=5)))
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.line) == ("too_long", 2)
    fits = Rig(rendering=TinyRendering(), engine=rig.engine)
    await complete(fits, await fits.begin(on_file(await store(fits, rows), max_new_tokens=4)))


@pytest.mark.parametrize(("errors", "is_refused"), [(0, False), (2, False), (3, True), (4, True)])
def test_the_budget_is_a_share_of_all_samples(errors: int, is_refused: bool) -> None:
    faults = [GraderFault("other_error", "no")] * errors
    if not is_refused:
        check_budget(faults, total=4, max_share=0.5)
        return
    found = f"failed on at least {errors} of 4 samples: other_error {errors} times"
    with pytest.raises(DataRefused, match=found):
        check_budget(faults, total=4, max_share=0.5)


def test_no_budget_makes_a_wave_of_nothing() -> None:
    with pytest.raises(DataRefused):
        check_budget([GraderFault("other_error", "no")] * 2, total=2, max_share=1.0)


class FailingGraders:
    """Graders that fail on every sample, and count them; with a clock each call takes 30 seconds."""

    def __init__(self, kind: str = "other_error", clock: ManualClock | None = None) -> None:
        self.graded = 0
        self._kind = kind
        self._clock = clock or ManualClock()
        self._seconds = 30.0 if clock else 0.0

    async def grade(
        self, spec: GraderSpec, samples: Sequence[GradedSample], *, tenant_id: TenantId
    ) -> list[Grade | GraderFault]:
        """Fail."""
        self.graded += len(samples)
        await self._clock.sleep(self._seconds)
        return [GraderFault(self._kind, "no")] * len(samples)


async def test_a_wave_ends_as_soon_as_too_many_samples_have_failed(rig: Rig) -> None:
    failing = FailingGraders()
    rig = Rig(rendering=TinyRendering(), engine=rig.engine, graders=failing)
    event = on_file(await store(rig, questions(8)), batch=8, group_size=64)
    await refused(rig, await rig.begin(event))
    # Of 512 samples half may fail; some more are being graded when it is known that they have.
    assert 256 < failing.graded <= 256 + TOGETHER * CALLS
    assert (await job_of(rig)).fault.code == "grader_errors"


async def test_a_model_that_answers_no_question_is_waited_for_once(rig: Rig) -> None:
    clock = ManualClock(1000.0)
    away = FailingGraders("model_grader_server_error", clock)
    rig = Rig(rendering=TinyRendering(), engine=rig.engine, graders=away, clock=clock)
    event = on_file(await store(rig, questions(8)), batch=8, group_size=64)
    await refused(rig, await rig.begin(event))
    assert away.graded == TOGETHER * CALLS
    assert clock.now() < 1000.0 + 60.0
    assert (await job_of(rig)).fault.code == "grader_errors"
