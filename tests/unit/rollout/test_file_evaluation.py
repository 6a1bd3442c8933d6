"""Jobs on files that are measured: on which rows, what is recorded, which revision they end with."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from mint_common.errors import NotFound, Unavailable
from mint_common.events import EarlyStopping, JobFinished, WaveRequested
from mint_common.records import decode_rows
from tests.unit.rollout.file_jobs import (
    EVALUATION,
    TinyRendering,
    complete,
    completions,
    job_of,
    on_file,
    record_of,
    refused,
    run_through,
    store,
    train,
)
from tests.unit.rollout.rig import Rig
from tests.unit.rollout.world import ScoreBoard

PLAN = replace(EVALUATION, rows=100)


@pytest.fixture
def rig() -> Rig:
    return Rig(rendering=TinyRendering())


async def run(rig: Rig, event: Any, losses: list[float]) -> JobFinished:
    """Run a job whose steps lead to these losses, where they are measured; return its end."""
    wave: Any = await rig.begin(event)
    for loss in losses:
        is_measured = (await complete(rig, wave)).validation is not None
        measured = {"valid_loss": loss, "valid_mean_token_accuracy": 0.5} if is_measured else {}
        (wave,) = await train(rig, wave, loss=9.0, **measured)
    assert isinstance(wave, JobFinished)
    return wave


async def test_held_out_rows_are_measured_and_never_trained(rig: Rig) -> None:
    event = on_file(await store(rig, completions(20)), epochs=2, evaluation=PLAN)
    waves = await run_through(rig, event, valid_loss=1.0)
    assert [wave.step for wave in waves if wave.validation] == [2, 4, 6, 8]
    (claim,) = {wave.validation for wave in waves if wave.validation}
    held = {group.prompt_tokens for group in (await record_of(rig, claim)).groups}
    trained = [group.prompt_tokens for wave in waves for group in (await record_of(rig, wave.record)).groups]
    assert (len(held), len(set(trained)), len(trained)) == (4, 16, 32)
    assert not held & set(trained)


async def test_the_rows_of_a_validation_file_are_measured_up_to_the_most(rig: Rig) -> None:
    file = await store(rig, completions(30, begin=100), "valid.jsonl")
    plan = replace(PLAN, file=file, rows=7)
    waves = await run_through(rig, on_file(await store(rig, completions(8)), evaluation=plan), valid_loss=1.0)
    (claim,) = {wave.validation for wave in waves if wave.validation}
    assert len((await record_of(rig, claim)).groups) == 7
    assert {n for _, _, n in rig.scores.recorded} == {7}


async def test_a_process_that_starts_anew_measures_the_same_bytes(rig: Rig) -> None:
    event = on_file(await store(rig, completions(20)), evaluation=PLAN)
    wave: Any = await rig.begin(event)
    claims = []
    while isinstance(wave, WaveRequested):
        process = Rig(blobs=rig.blobs, jobs=rig.jobs, rendering=TinyRendering())
        claims.append((await complete(process, wave)).validation)
        await complete(rig, wave)
        (wave,) = await train(rig, wave, valid_loss=1.0)
    assert len({claim for claim in claims if claim}) == 1


async def test_each_measured_revision_has_its_scores_recorded(rig: Rig) -> None:
    event = on_file(await store(rig, completions(20)), evaluation=PLAN)
    await run(rig, event, [5.0, 4.0, 3.0, 2.0])
    accuracy = {"valid_mean_token_accuracy": 0.5}
    assert rig.scores.recorded == [
        (2, {"valid_loss": 4.0, **accuracy}, 4),
        (4, {"valid_loss": 2.0, **accuracy}, 4),
    ]


async def test_a_registry_that_is_away_is_asked_again_and_one_that_refuses_is_not() -> None:
    away = Unavailable(what="the registry", problem="no answer in time")
    rig = Rig(rendering=TinyRendering(), scores=ScoreBoard(troubles=[away, NotFound(kind="p", name="x")]))
    event = on_file(await store(rig, completions(20)), evaluation=replace(PLAN, every=1))
    wave = await rig.begin(event)
    await complete(rig, wave)
    with pytest.raises(Unavailable):
        await train(rig, wave, valid_loss=1.0)
    (after,) = await train(rig, wave, valid_loss=1.0)
    assert isinstance(after, WaveRequested)
    assert rig.scores.recorded == []


@pytest.mark.parametrize(("keep", "chosen"), [("best", 2), ("last", 4)])
async def test_a_job_ends_with_the_revision_that_its_plan_keeps(rig: Rig, keep: Any, chosen: int) -> None:
    plan = replace(PLAN, keep=keep)
    await run(rig, on_file(await store(rig, completions(20)), evaluation=plan), [3.0, 1.0, 0.5, 2.0])
    job = await job_of(rig)
    assert (job.state.value, job.steps_done, job.result.number) == ("succeeded", 4, chosen)


async def test_a_job_that_gets_no_better_stops_early(rig: Rig) -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.0, warmup=0)
    plan = replace(PLAN, every=1, early_stopping=stopping)
    event = on_file(await store(rig, completions(40)), evaluation=plan)
    end = await run(rig, event, [3.0, 1.0, 2.0, 1.5])
    job = await job_of(rig)
    assert (event.spec.steps, job.steps_done, job.stopped_early, job.result.number) == (8, 4, True, 2)
    assert end.outcome == "succeeded"
    assert end.reason == (
        "stopped early after step 4 of 8: valid_loss was not better in the last 2 evaluations"
    )


async def test_a_validation_row_that_is_wrong_names_its_file(rig: Rig) -> None:
    bad = [*completions(3), {"prompt": "a=", "completion": "b" * 100}]
    plan = replace(PLAN, every=1, file=await store(rig, bad, "valid.jsonl"))
    await refused(rig, await rig.begin(on_file(await store(rig, completions(3)), evaluation=plan)))
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.param, fault.line) == ("too_long", "validation_file", 5)
    assert fault.message.startswith("Line 5 of valid.jsonl: ")


async def test_equal_rows_cannot_be_held_out(rig: Rig) -> None:
    await rig.of_jobs.on_job_submitted(on_file(await store(rig, completions(1) * 5), evaluation=PLAN))
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.param) == ("too_few_rows", "training_file")


async def test_a_repeated_row_is_on_one_side(rig: Rig) -> None:
    rows = completions(10) * 2
    event = on_file(await store(rig, rows), batch=20, evaluation=PLAN)
    wave = await rig.begin(event)
    lines = decode_rows(await rig.blobs.get(wave.prompts))
    found = [msgspec.json.decode(line.data)["prompt"] for line in lines]
    assert sorted(found) == sorted([*set(found)] * 2)
