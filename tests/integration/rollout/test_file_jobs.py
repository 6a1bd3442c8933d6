"""Jobs on files, on real Postgres, NATS and blobs, with the trainer's own renderer."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest

from mint_common.blobs.localfs import LocalBlobs
from mint_common.datasets import Format
from mint_common.events import JobFile, JobSubmitted, WaveCompleted
from mint_common.ids import JobId
from mint_common.records import Group, decode_record
from tests.integration.rollout.neighbours import Neighbours, Trainer
from tests.integration.rollout.process import show, until
from tests.processes import ServiceProcess
from tests.testing.factories import POLICY
from tests.unit.rollout.file_jobs import EVALUATION, completions, on_file

pytestmark = pytest.mark.integration

PLAN = replace(EVALUATION, rows=8, holdout=0.25)


async def stored(folder: Path, rows: Sequence[object], kind: Format = Format.COMPLETION) -> JobFile:
    data = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    content = await LocalBlobs(folder / "blobs").put("files/train", data)
    return JobFile(file_id="file-1", filename="train.jsonl", content=content, format=kind, rows=len(rows))


def named(event: JobSubmitted, job_id: str) -> JobSubmitted:
    return replace(event, job_id=JobId(job_id))


async def groups_of(folder: Path, waves: Sequence[WaveCompleted], job_id: str) -> list[Group]:
    """Return the groups of a job's waves in the order in which they are trained."""
    blobs = LocalBlobs(folder / "blobs")
    own = sorted((wave for wave in waves if wave.job_id == job_id), key=lambda wave: wave.step)
    records = [decode_record(await blobs.get(wave.record)) for wave in own]
    return [group for record in records for group in record.groups]


async def test_a_job_trains_on_its_rows_and_ends_with_its_best_revision(
    nats_url: str,
    rollout: ServiceProcess,
    client: httpx.AsyncClient,
    neighbours: Neighbours,
    tmp_path: Path,
) -> None:
    trainer = Trainer()
    trainer.loss_of = lambda step: abs(step - 4) + 1.0
    event = named(on_file(await stored(tmp_path, completions(16)), epochs=2, evaluation=PLAN), "job_best")
    async with trainer.running(nats_url):
        await trainer.submit(event)
        await until(lambda: len(trainer.ends) == 1)
    job = await show(client, event.job_id)
    assert (job["state"], job["reason"], job["fault"], job["stopped_early"]) == ("succeeded", "", None, False)
    steps = job["steps"]
    assert isinstance(steps, list)
    assert [step.get("valid_loss") for step in steps] == [None, 3.0, None, 1.0, None, 3.0]
    assert [step["epoch"] for step in steps] == [step / 3 for step in range(1, 7)]
    assert {step["reward_mean"] for step in steps} == {None}
    chosen = {name: steps[3]["revision"][name] for name in ("digest", "number")}
    assert job["result"] == chosen
    assert job["best"] == {**chosen, "step": 4, "metric": "valid_loss", "value": 1.0}
    groups = await groups_of(tmp_path, trainer.waves, event.job_id)
    assert job["trained_tokens"] == sum(len(group.samples[0].tokens) for group in groups)
    assert len(groups) == 24
    signed = {f"job:{event.job_id}"}
    recorded = [score for score in neighbours.scores if score[0] == POLICY]
    assert {name for _, name, _ in recorded} == signed
    assert {str(score["suite"]) for _, _, score in recorded} == signed
    assert [(score["metric"], score["value"], score["n"]) for _, _, score in recorded] == [
        ("valid_loss", value, 4) for value in (3.0, 1.0, 3.0)
    ]


async def test_a_row_that_is_too_long_fails_its_job_by_line(
    nats_url: str,
    rollout: ServiceProcess,
    client: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    trainer = Trainer()
    rows = [*completions(3), {"prompt": "a=", "completion": "b" * 100}]
    event = named(on_file(await stored(tmp_path, rows)), "job_long")
    async with trainer.running(nats_url):
        await trainer.submit(event)
        await until(lambda: len(trainer.ends) == 1)
    job = await show(client, event.job_id)
    fault = job["fault"]
    assert isinstance(fault, dict)
    assert (job["state"], fault["code"], fault["param"], fault["line"]) == (
        "failed",
        "too_long",
        "training_file",
        4,
    )
    assert trainer.ends[0].reason == fault["message"]
    assert str(fault["message"]).startswith("Line 4 of train.jsonl: ")


async def test_kill_9_at_any_moment_changes_no_row_and_no_order(
    nats_url: str,
    rollout: ServiceProcess,
    client: httpx.AsyncClient,
    tmp_path: Path,
) -> None:
    trainer = Trainer()
    event = on_file(await stored(tmp_path, completions(21)), epochs=2, batch=2, evaluation=PLAN)
    whole, killed = named(event, "job_whole"), named(event, "job_killed")
    moments = random.Random(18)
    async with trainer.running(nats_url):
        await trainer.submit(whole)
        await until(lambda: len(trainer.ends) == 1)
        await trainer.submit(killed)
        for _ in range(3):
            seen = len(trainer.waves)
            more = moments.randint(1, 4)
            await until(lambda: len(trainer.waves) >= seen + more)  # noqa: B023  # awaited within the loop
            await asyncio.sleep(moments.random() * 0.05)
            rollout.kill()
            await asyncio.to_thread(rollout.start)
        await until(lambda: len(trainer.ends) == 2, seconds=90)
    assert [end.outcome for end in trainer.ends] == ["succeeded", "succeeded"]
    found = await groups_of(tmp_path, trainer.waves, killed.job_id)
    assert found == await groups_of(tmp_path, trainer.waves, whole.job_id)
    assert len(found) == 2 * 16
    validations = {
        wave.job_id: {other.validation for other in trainer.waves if other.job_id == wave.job_id}
        for wave in trainer.waves
    }
    assert [len(claims - {None}) for claims in validations.values()] == [1, 1]


async def test_a_graded_job_waits_for_the_scores_of_its_revisions(
    nats_url: str, rollout: ServiceProcess, client: httpx.AsyncClient, neighbours: Neighbours, tmp_path: Path
) -> None:
    """The scripted engine says "no" to every row, and every second time something else."""
    rows = [{"messages": [{"role": "user", "content": f"{n}?"}], "answer": "no"} for n in range(16)]
    plan = replace(PLAN, metric="valid_reward_mean")
    file = await stored(tmp_path, rows, Format.REWARD)
    event = named(on_file(file, batch=3, evaluation=plan), "job_graded")
    assert (event.spec.algorithm, event.spec.steps) == ("grpo", 4)
    trainer = Trainer()
    async with trainer.running(nats_url):
        await trainer.submit(event)
        await until(lambda: len(trainer.waves) == 4)
        rollout.kill()  # perhaps while it scores
        await asyncio.to_thread(rollout.start)
        await until(lambda: len(trainer.ends) == 1)
    job = await show(client, event.job_id)
    assert (job["state"], job["reason"]) == ("succeeded", "")
    steps = job["steps"]
    assert isinstance(steps, list)
    assert [step.get("valid_reward_mean") for step in steps] == [None, 1.0, None, 1.0]
    assert [step["reward_mean"] for step in steps] == [0.5] * 4
    assert [step["grader_errors"] for step in steps] == [{}] * 4
    assert job["result"] == {name: steps[1]["revision"][name] for name in ("digest", "number")}
    recorded = [score for policy, name, score in neighbours.scores if name == f"job:{event.job_id}"]
    found = {(score["metric"], score["value"], score["n"], score["revision"]) for score in recorded}
    assert found == {("valid_reward_mean", 1.0, 4, steps[at]["revision"]["digest"]) for at in (1, 3)}
    groups = await groups_of(tmp_path, trainer.waves, event.job_id)
    assert [len(group.samples) for group in groups] == [4] * 12
