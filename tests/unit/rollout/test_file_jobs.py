"""Jobs on files: what is drawn, rendered, recorded and refused."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from transformers import AutoTokenizer

from mint_common.datasets import RowLine
from mint_common.errors import Overloaded, Unavailable
from mint_common.events import JobFinished, WaveCompleted
from mint_common.records import WaveRecord, decode_rows
from mint_common.telemetry.logs import JsonFormatter
from services.rollout.core import row_bounds
from services.rollout.core.fault import JobFault
from services.standalone.adapters.bases import tiny_folder
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
from tests.unit.rollout.world import published

TOKENIZER = AutoTokenizer.from_pretrained(tiny_folder())
EOS = TOKENIZER.eos_token_id


@pytest.fixture
def rig() -> Rig:
    return Rig(rendering=TinyRendering())


def texts(record: WaveRecord) -> list[str]:
    """Return the whole texts of a record's samples."""
    return [
        TOKENIZER.decode([*group.prompt_tokens, *sample.tokens], skip_special_tokens=True)
        for group in record.groups
        for sample in group.samples
    ]


async def trained_texts(rig: Rig, waves: Sequence[WaveCompleted]) -> list[str]:
    """Return the texts of all waves in the order in which they were trained."""
    return [text for wave in waves for text in texts(await record_of(rig, wave.record))]


async def test_an_sft_job_trains_on_each_row_once_an_epoch_and_succeeds(rig: Rig) -> None:
    rows = completions(10)
    event = on_file(await store(rig, rows), epochs=3)
    assert event.spec.steps == 8
    waves = await run_through(rig, event)
    assert [wave.step for wave in waves] == list(range(1, 9))
    trained = await trained_texts(rig, waves)
    whole = sorted(row["prompt"] + row["completion"] for row in rows)
    assert [sorted(trained[at : at + 10]) for at in (0, 10, 20)] == [whole] * 3
    assert trained[:10] != trained[10:20]
    assert (await rig.state_of())[0] == "succeeded"
    job = await job_of(rig)
    assert (job.result, job.fault, job.stopped_early) == (job.revision, None, False)


async def test_the_loss_falls_on_the_answer_and_its_end(rig: Rig) -> None:
    (wave,) = await run_through(rig, on_file(await store(rig, [{"prompt": "ab=", "completion": "ba"}])))
    (group,) = (await record_of(rig, wave.record)).groups
    (sample,) = group.samples
    assert group.prompt_tokens == tuple(TOKENIZER.encode("ab="))
    assert TOKENIZER.decode(sample.tokens[:-1]) == "ba"
    assert (sample.tokens[-1], sample.logprobs, sample.reward, sample.trained) == (EOS, (), 1.0, ())
    waves = await rig.jobs.waves_of(wave.job_id)
    assert waves[0].counts.trained_tokens == len(sample.tokens)


async def test_a_job_that_was_killed_goes_on_with_the_same_rows(rig: Rig) -> None:
    """A new process, with nothing in memory or on its disk, draws and renders what the old one would have."""
    file = await store(rig, completions(9))
    event = on_file(file, epochs=2, batch=2)
    expected = await trained_texts(rig, await run_through(rig, event))
    life = Rig(rendering=TinyRendering())
    await store(life, completions(9))
    wave: Any = await life.begin(event)
    found = []
    while not isinstance(wave, JobFinished):
        done = await complete(life, wave)
        again = Rig(blobs=life.blobs, jobs=life.jobs, rendering=TinyRendering())
        repeated = await complete(again, wave)
        assert repeated.record.sha256 == done.record.sha256
        found += await trained_texts(life, [done])
        (wave,) = await train(life, wave)
    assert found == expected


async def test_jobs_with_another_seed_have_another_order(rig: Rig) -> None:
    file = await store(rig, completions(12))
    other = Rig(rendering=TinyRendering(), blobs=rig.blobs)
    one = await trained_texts(rig, await run_through(rig, on_file(file, seed=1)))
    two = await trained_texts(other, await run_through(other, on_file(file, seed=2)))
    assert one != two
    assert sorted(one) == sorted(two)


async def test_a_wave_names_its_lines(rig: Rig) -> None:
    rows = completions(6)
    wave = await rig.begin(on_file(await store(rig, rows), batch=6))
    lines = decode_rows(await rig.blobs.get(wave.prompts))
    numbered = {line: msgspec.json.encode(row) for line, row in enumerate(rows, start=2)}
    assert sorted(lines, key=lambda row: row.line) == [
        RowLine(line=line, data=data) for line, data in numbered.items()
    ]


@pytest.mark.parametrize("algorithm", ["dpo", "ipo"])
async def test_pairs_become_a_chosen_and_a_rejected_answer(rig: Rig, algorithm: str) -> None:
    rows = [{"prompt": "a", "chosen": "bc", "rejected": "bd"}]
    (wave,) = await run_through(rig, on_file(await store(rig, rows), algorithm=algorithm, batch=1))
    (group,) = (await record_of(rig, wave.record)).groups
    assert TOKENIZER.decode(group.prompt_tokens, skip_special_tokens=True) == "a"
    assert [TOKENIZER.decode(sample.tokens[:-1]) for sample in group.samples] == ["bc", "bd"]
    assert [sample.reward for sample in group.samples] == [1.0, 0.0]


async def test_a_job_of_an_algorithm_that_is_not_known_fails_with_a_sentence(rig: Rig) -> None:
    await refused(rig, await rig.begin(on_file(await store(rig, completions(4)), algorithm="lost")))
    state, reason = await rig.state_of()
    assert (state, "'lost' is neither built in nor named in MINT_ALGORITHMS_CUSTOM" in reason) == (
        "failed",
        True,
    )


async def test_kto_rows_have_the_reward_of_their_label(rig: Rig) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False, True)]
    (wave,) = await run_through(rig, on_file(await store(rig, rows)))
    assert wave.spec.algorithm == "kto"
    record = await record_of(rig, wave.record)
    assert Counter(group.samples[0].reward for group in record.groups) == {1.0: 2, 0.0: 1}


LONG = {"prompt": "a=", "completion": "b" * 100}


async def test_a_row_that_is_too_long_fails_the_job_with_its_line(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    wave = await rig.begin(on_file(await store(rig, [*completions(3), LONG])))
    cancelled = await refused(rig, wave)
    job = await job_of(rig)
    assert job.fault == JobFault(code="too_long", message=job.fault.message, param="training_file", line=5)
    assert job.fault.message.startswith("Line 5 of train.jsonl: an example has 10")
    assert (job.state.value, job.reason, cancelled.reason) == ("failed", job.fault.message, job.reason)
    (logged,) = [record for record in caplog.records if record.message == "wave cancelled"]
    told = {name: vars(logged).get(name) for name in ("code", "param", "line", "reason")}
    assert told == {"code": "data_refused", "param": "training_file", "line": 5, "reason": None}


async def test_an_error_that_quotes_a_row_is_logged_without_the_row(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    def quoting(rows: Sequence[RowLine]) -> ValueError:
        error = ValueError(f"cannot read {rows[0].data!r}")
        error.__cause__ = KeyError(rows[0].data)
        return error

    caplog.set_level(0)
    wave = await rig.begin(on_file(await store(rig, [{"prompt": "a=", "completion": "marker-7f3"}])))
    rig.rendering.troubles.append(quoting(decode_rows(await rig.blobs.get(wave.prompts))))
    await refused(rig, wave)
    assert await rig.state_of() == ("failed", "wave cancelled: internal error: ValueError")
    lines = [JsonFormatter("rollout").format(record) for record in caplog.records]
    assert "marker-7f3" not in "\n".join(lines)
    (line,) = [msgspec.json.decode(line) for line in lines if "wave cancelled" in line]
    assert (line["job_id"], line["wave_id"]) == (wave.job_id, wave.wave_id)
    assert line["error"].startswith("ValueError at file_jobs.py:")
    assert " < file_waves.py:" in line["error"]
    assert "; from KeyError" in line["error"]


async def test_a_validation_row_that_is_too_long_fails_the_job_before_anything_is_trained(rig: Rig) -> None:
    held = await store(rig, [*completions(2), LONG], "held.jsonl")
    plan = replace(EVALUATION, rows=9, file=held, holdout=0.0)
    event = on_file(await store(rig, completions(16)), evaluation=plan)
    assert event.spec.steps == 4
    await refused(rig, await rig.begin(event))
    job = await job_of(rig)
    assert (job.state.value, job.steps_done) == ("failed", 0)
    assert (job.fault.code, job.fault.param, job.fault.line) == ("too_long", "validation_file", 4)


async def test_rows_that_are_too_long_are_dropped_and_counted_when_asked_for(rig: Rig) -> None:
    rows = [*completions(3), LONG]
    (wave,) = await run_through(rig, on_file(await store(rig, rows), on_long="drop"))
    assert len((await record_of(rig, wave.record)).groups) == 3
    (stored,) = await rig.jobs.waves_of(wave.job_id)
    assert stored.counts.dropped_rows == 1


async def test_a_step_whose_rows_are_all_dropped_trains_on_others(rig: Rig) -> None:
    """Every row is alone in its step."""
    event = on_file(await store(rig, [*completions(3), LONG]), batch=1, on_long="drop")
    waves = await run_through(rig, event)
    trained = await trained_texts(rig, waves)
    assert len(trained) == 4
    assert set(trained) == {row["prompt"] + row["completion"] for row in completions(3)}
    assert sum(wave.counts.dropped_rows for wave in await rig.jobs.waves_of(waves[0].job_id)) >= 1


async def test_many_long_rows_in_a_row_fail_no_job_that_drops_them(rig: Rig) -> None:
    rows = [*completions(4), *[LONG] * 36]
    waves = await run_through(rig, on_file(await store(rig, rows), batch=1, on_long="drop"))
    assert len(waves) == 40
    assert (await rig.state_of())[0] == "succeeded"


async def test_a_file_of_which_all_rows_are_dropped_fails_the_job(rig: Rig) -> None:
    wave = await rig.begin(on_file(await store(rig, [LONG]), on_long="drop"))
    await refused(rig, wave)
    job = await job_of(rig)
    assert (job.fault.code, job.fault.param, job.fault.line) == ("too_long", "training_file", None)


async def test_a_step_of_too_many_bytes_fails_the_job_before_its_rows_are_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_bounds, "MAX_BYTES", 100)
    await rig.of_jobs.on_job_submitted(on_file(await store(rig, completions(4))))
    job = await job_of(rig)
    assert (job.fault.code, job.fault.param, job.fault.line) == ("too_large", "training_file", None)
    assert job.fault.message.startswith("train.jsonl: the rows of one step have ")
    assert job.fault.message.endswith(" bytes or more, the limit is 100: choose a smaller batch_size")


async def test_a_step_of_too_many_tokens_fails_the_job(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_bounds, "MAX_TOKENS", 8)
    await refused(rig, await rig.begin(on_file(await store(rig, completions(4)))))
    job = await job_of(rig)
    assert (job.fault.code, job.fault.param) == ("too_large", "training_file")
    assert job.fault.message.endswith(" tokens or more, the limit is 8: choose a smaller batch_size")


@pytest.mark.parametrize(("limit", "unit"), [("MAX_BYTES", "bytes"), ("MAX_TOKENS", "tokens")])
async def test_a_validation_that_is_too_large_names_its_file_and_what_to_do(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, limit: str, unit: str
) -> None:
    monkeypatch.setattr(row_bounds, limit, 100)
    valid = await store(rig, completions(40), "valid.jsonl")
    plan = replace(EVALUATION, every=1, rows=100, file=valid, holdout=0.0)
    event = on_file(await store(rig, completions(1)), batch=1, evaluation=plan)
    await refused(rig, await rig.begin(event))
    job = await job_of(rig)
    assert (job.fault.code, job.fault.param) == ("too_large", "validation_file")
    assert job.fault.message.startswith("valid.jsonl: the rows that revisions are measured on have ")
    assert f" {unit} or more" in job.fault.message
    assert job.fault.message.endswith("choose fewer of them with mint.evaluation.rows")


async def test_a_pair_without_a_common_prompt_names_its_line(rig: Rig) -> None:
    chat = {"role": "assistant", "content": "b"}
    pair = {"input": {"messages": [{"role": "user", "content": ""}]}}
    rows = [{**pair, "preferred_output": [chat], "non_preferred_output": [{**chat, "content": "c"}]}]
    await refused(rig, await rig.begin(on_file(await store(rig, rows))))
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.line) == ("no_prompt", 2)


async def test_a_file_that_is_gone_fails_the_job(rig: Rig) -> None:
    file = await store(rig, completions(3))
    await rig.blobs.delete(file.content.uri)
    await rig.of_jobs.on_job_submitted(on_file(file))
    job = await job_of(rig)
    assert (job.state.value, job.fault.code, job.fault.param) == ("failed", "blob_missing", "training_file")


async def test_a_fault_names_the_file_that_is_gone_and_no_file_for_the_rows_of_a_step(rig: Rig) -> None:
    valid = await store(rig, completions(2, begin=9), "valid.jsonl")
    plan = replace(EVALUATION, every=1, rows=2, file=valid, holdout=0.0, keep="last")
    assert plan.file is not None
    event = on_file(await store(rig, completions(4)), evaluation=plan)
    wave = await rig.begin(event)
    other = Rig(rendering=TinyRendering(), blobs=rig.blobs)
    await other.begin(event)
    await rig.blobs.delete(plan.file.content.uri)
    await refused(rig, wave)
    fault = (await job_of(rig)).fault
    assert (fault.code, fault.param) == ("blob_missing", "validation_file")
    await rig.blobs.delete(wave.prompts.uri)
    await refused(other, wave)
    job = await job_of(other)
    assert (job.state.value, job.fault) == ("failed", None)


async def test_a_file_that_goes_midway_fails_the_job(rig: Rig) -> None:
    file = await store(rig, completions(8))
    wave = await rig.begin(on_file(file))
    process = Rig(blobs=rig.blobs, jobs=rig.jobs, rendering=TinyRendering())
    await complete(process, wave)
    await rig.blobs.delete(file.content.uri)
    (end,) = await train(process, wave)  # this process has no copy yet
    assert isinstance(end, JobFinished)
    job = await job_of(rig)
    assert (job.steps_done, job.revision, end.steps_done) == (1, published(1).revision, 1)
    assert [each.state.value for each in await rig.jobs.waves_of(wave.job_id)] == ["published"]
    assert (job.state.value, job.fault.code, job.reason) == ("failed", "blob_missing", job.fault.message)


async def test_a_trainer_that_is_away_or_full_is_asked_again(rig: Rig) -> None:
    assert isinstance(rig.rendering, TinyRendering)
    rig.rendering.troubles = [
        Unavailable(what="a trainer of tiny", problem="none of the trainers has this base"),
        Overloaded(what="the rendering of rows", depth=32, retry_after_seconds=1),
    ]
    (wave,) = await run_through(rig, on_file(await store(rig, completions(2))))
    assert len((await record_of(rig, wave.record)).groups) == 2


async def test_many_rows_are_rendered_in_several_requests(rig: Rig) -> None:
    rows = completions(300)
    (wave,) = await run_through(rig, on_file(await store(rig, rows), batch=300))
    assert isinstance(rig.rendering, TinyRendering)
    assert [len(request.rows) for request in rig.rendering.requests] == [128, 128, 44]
    assert sorted(texts(await record_of(rig, wave.record))) == sorted(
        row["prompt"] + row["completion"] for row in rows
    )
