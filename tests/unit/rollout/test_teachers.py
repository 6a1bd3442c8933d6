"""Jobs that learn from a teacher: what is refused, what is read of it, and what is kept for them."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from mint_common.errors import InvalidField
from mint_common.events import Teacher, WaveRequested
from mint_common.job_requests import (
    DifficultyBody,
    DynamicSamplingBody,
    GradientBody,
    JobRequest,
    OverlongBody,
)
from mint_common.records import decode_record
from services.rollout.core.job_plan import plan_job
from services.rollout.core.sampling import GroupRequest, ReadSequence
from tests.testing.factories import JOB
from tests.unit.rollout.rig import ALGORITHMS, Rig
from tests.unit.rollout.world import ScriptedEngine, published, submitted

REQUEST = JobRequest(policy="p", task="t", algorithm="opd", teacher="counter@best")
TEACHER = Teacher(name="counter@best", revision=published(9).revision)


@dataclass
class ReadingEngine(ScriptedEngine):
    """An engine whose log-probability of a token is its place in the sequence, negated."""

    context: int = 64

    async def read(self, request: GroupRequest) -> ReadSequence:
        """Read a sequence."""
        self.requests.append(request)
        assert len(request.prompt_tokens) < self.context, "it leaves room for a token"
        digest = self.answers_as(request.revision.digest if request.revision else None)
        return ReadSequence(
            revision=digest, logprobs=tuple(-float(place) for place in range(len(request.prompt_tokens)))
        )

    async def max_context(self, base: Any) -> int:
        """Return the longest sequence."""
        return self.context


async def begun(engine: ReadingEngine, **spec: Any) -> tuple[Rig, WaveRequested]:
    rig = Rig(engine=engine)
    gradient = ALGORITHMS.named("opd").gradient
    wave = await rig.begin(submitted(algorithm="opd", gradient=gradient, teacher=TEACHER, **spec))
    return rig, wave


async def test_a_record_has_the_teachers_log_probability_of_each_sampled_token() -> None:
    engine = ReadingEngine()
    rig, wave = await begun(engine)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (fact,) = await rig.led_to(wave)
    record = decode_record(await rig.blobs.get(fact.record))  # type: ignore[attr-defined]
    reads = [request for request in engine.requests if request.revision == TEACHER.revision]
    samples = [(group, sample) for group in record.groups for sample in group.samples]
    assert len(reads) == len(samples) > 0
    for group, sample in samples:
        begin = len(group.prompt_tokens)
        assert sample.teacher == tuple(-float(begin + place) for place in range(len(sample.tokens)))
        assert (*group.prompt_tokens, *sample.tokens) in {request.prompt_tokens for request in reads}
    assert len({request.request_id for request in reads}) == len(reads)


async def test_a_sample_that_fills_the_context_has_its_samplers_number_at_the_end() -> None:
    engine = ReadingEngine()
    rig, wave = await begun(engine)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    longest = max(
        len(request.prompt_tokens) for request in engine.requests if request.revision == TEACHER.revision
    )
    full = ReadingEngine(context=longest)
    rig, wave = await begun(full)
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (fact,) = await rig.led_to(wave)
    record = decode_record(await rig.blobs.get(fact.record))  # type: ignore[attr-defined]
    for group in record.groups:
        for sample in group.samples:
            is_full = len(group.prompt_tokens) + len(sample.tokens) == longest
            assert len(sample.teacher) == len(sample.tokens)
            assert (sample.teacher[-1] == sample.logprobs[-1]) == is_full


async def test_another_revisions_answer_is_not_the_teachers() -> None:
    own = published(1).revision.digest

    def swapped(digest: Any) -> Any:
        return own if TEACHER.revision is not None and digest == TEACHER.revision.digest else digest

    rig, wave = await begun(ReadingEngine(answers_as=swapped))
    await rig.let_pass(rig.of_waves.on_wave_requested(wave))
    (fact, *_) = await rig.led_to(wave)
    assert "the revision that an engine answered with" in fact.reason  # type: ignore[attr-defined]


async def test_a_teacher_is_held_while_its_job_is_open() -> None:
    rig, _ = await begun(ReadingEngine())
    assert TEACHER.revision is not None
    digest = TEACHER.revision.digest
    assert await rig.jobs.teachers(after="", limit=9) == [digest]
    assert await rig.jobs.teachers(after=digest, limit=9) == []
    await rig.commits.cancel(JOB)
    assert await rig.jobs.teachers(after="", limit=9) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"teacher": None}, "teacher"),
        ({"algorithm": "grpo"}, "teacher"),
        ({"temperature": 0.7}, "temperature"),
        ({"dynamic_sampling": DynamicSamplingBody()}, "dynamic_sampling"),
        ({"difficulty": DifficultyBody()}, "difficulty"),
        ({"gradient": GradientBody(advantage="std")}, "gradient.advantage"),
        ({"gradient": GradientBody(kl="reward"), "kl_coefficient": 0.1}, "gradient.kl"),
        ({"gradient": GradientBody(overlong=OverlongBody(buffer=4))}, "gradient.overlong.buffer"),
    ],
)
def test_what_would_have_no_effect_is_refused(changes: dict[str, Any], field: str) -> None:
    plan_job(REQUEST, ALGORITHMS, defaults={}, max_context=512)
    with pytest.raises(InvalidField) as refused:
        plan_job(replace(REQUEST, **changes), ALGORITHMS, defaults={}, max_context=512)
    assert refused.value.field == field
