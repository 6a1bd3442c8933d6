"""`mint train` as values: the body of the request, the plan, the commands that ask the result."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mint_client.core.job_times import step_size, step_time_of, time_in_words
from mint_client.core.jobs import JobNow, headline, read_job, step_columns, step_rows
from mint_client.core.tables import cells, fitting
from mint_client.core.training import (
    Wishes,
    count_tokens,
    example_of,
    job_body,
    plan_rows,
    promotion_in_words,
    result_in_words,
    serving_lines,
    suffix_of,
    tokens_in_words,
)
from mint_client.views.job import JobView
from mint_common.datasets import Format
from mint_common.datasets.check import check_file
from mint_common.datasets.repeats import shared_rows

EXAMPLES = Path(__file__).parents[3] / "examples/reverse"
DIGEST = "sha256:" + "a" * 64


def job_of(**changes: Any) -> Any:
    """Return a job on a file, as the API answers, with one evaluated step."""
    evaluation = {
        "every": 2,
        "rows": 1000,
        "file": None,
        "holdout": 0.1,
        "metric": "valid_loss",
        "keep": "best",
        "early_stopping": None,
    }
    data = {
        "training": {"file_id": "file-a", "filename": "support.jsonl", "format": "chat", "rows": 800},
        "epochs": 3,
        "evaluation": evaluation,
    }
    spec = {
        "algorithm": "sft",
        "task": "",
        "steps": 270,
        "prompts_per_step": 8,
        "learning_rate": 2e-4,
        "schedule": "linear",
        "warmup_steps": 9,
        "data": data,
    }
    steps = [
        {"step": 1, "state": "published", "loss": 2.5, "epoch": 0.01, "dropped_rows": 2},
        {"step": 2, "state": "published", "loss": 2.0, "epoch": 0.02, "valid_loss": 2.125},
    ]
    for number, step in enumerate(steps, start=1):
        step |= {"revision": {"number": number, "digest": DIGEST}, "reward_mean": None}
        step |= {"learning_rate": 1e-4, "mean_token_accuracy": 0.5, "grader_errors": {}}
    job = {
        "job_id": "job_a",
        "policy": "support",
        "base": "smollm2",
        "state": "running",
        "spec": spec,
        "step": 2,
        "total_steps": 270,
        "best": {"number": 2, "digest": DIGEST, "step": 2, "metric": "valid_loss", "value": 2.125},
        "created_at": 1000.0,
        "started_at": 1000.0,
        "steps": steps,
        "trained_tokens": 4000,
    }
    return {**job, **changes}


def test_a_body_has_only_what_was_asked_for() -> None:
    body = job_body(Wishes(method="sft"), model="smollm2", training_file="file-a", suffix="support")
    assert body == {
        "model": "smollm2",
        "training_file": "file-a",
        "suffix": "support",
        "method": {"type": "supervised", "supervised": {"hyperparameters": {}}},
        "mint": {},
    }


def test_a_body_has_every_wish_in_its_place() -> None:
    wishes = Wishes(
        method="rft",
        grader={"type": "string_check"},
        validation_file="file-b",
        every=5,
        epochs=2,
        batch_size=4,
        learning_rate=1e-3,
        rank=4,
        seed=3,
        drop_long=True,
        reset_optimizer=True,
        promote="prod",
    )
    body = job_body(wishes, model="support", training_file="file-a", suffix=None)
    assert body["method"]["reinforcement"] == {
        "hyperparameters": {"n_epochs": 2, "batch_size": 4},
        "grader": {"type": "string_check"},
    }
    assert body["mint"] == {
        "rank": 4,
        "learning_rate": 1e-3,
        "on_long": "drop",
        "optimizer": "reset",
        "evaluation": {"every": 5},
        "promote": {"alias": "prod"},
    }
    assert (body["seed"], body["validation_file"], "suffix" in body) == (3, "file-b", False)


def test_kto_is_asked_for_where_openai_has_no_word() -> None:
    body = job_body(Wishes(method="kto", epochs=1), model="b", training_file="f", suffix=None)
    assert (body["mint"], body["hyperparameters"], "method" in body) == (
        {"method": "kto"},
        {"n_epochs": 1},
        False,
    )


def test_a_stack_s_own_method_stands_beside_that_of_its_rows() -> None:
    body = job_body(Wishes(method="dpo", own_method="ipo"), model="b", training_file="f", suffix=None)
    assert (body["mint"], body["method"]["type"]) == ({"method": "ipo"}, "dpo")


@pytest.mark.parametrize(
    ("filename", "suffix"),
    [("Support chats (1).jsonl", "support-chats-1"), ("rows", "rows"), ("Ä.jsonl", "tuned")],
)
def test_a_policy_is_named_after_its_file(filename: str, suffix: str) -> None:
    assert suffix_of(filename) == suffix


def preview(*lines: int) -> Any:
    example = {"tokens": [1] * 10, "trained_count": 4}
    return {"rows": [{"line": line, "examples": [example]} for line in lines]}


def test_tokens_are_scaled_and_called_an_estimate_unless_all_were_counted() -> None:
    count = count_tokens([preview(1, 2), preview(2, 3)])
    assert count is not None
    assert (count.rows, count.tokens, count.trained) == (3, 30, 12)
    assert tokens_in_words(count, rows=3) == "30 an epoch, 12 of them trained"
    estimated = "about 3,000 an epoch, 1,200 of them trained; an estimate from 3 rows"
    assert tokens_in_words(count, rows=300) == estimated
    assert tokens_in_words(None, rows=300) == "not known: no row could be rendered"


def test_the_time_is_estimated_from_the_job_like_it_with_the_most_similar_steps() -> None:
    job = read_job(job_of())
    size = step_size(job, row_tokens=4.0)
    assert size == 32.0
    ended = {"state": "succeeded", "finished_at": 1020.0, "step": 100}
    small = read_job(job_of(job_id="job_b", **ended, trained_tokens=200))
    alike = read_job(job_of(job_id="job_c", **ended, trained_tokens=1600))
    other = read_job(job_of(job_id="job_d", base="tiny", **ended, trained_tokens=3200))
    assert step_time_of([job, other], like=job, size=size) is None
    told = time_in_words(job, size, step_time_of([job, other, small, alike], like=job, size=size))
    assert told == "about 1 min 48 s; an estimate from job_c"
    told = time_in_words(job, size, step_time_of([small], like=job, size=size))
    assert told == "about 14 min 24 s; an estimate from job_b whose steps were 16 times smaller: rough"
    told = "known after the first steps: no sft job like it has ended on smollm2 yet"
    assert (time_in_words(job, size, None), time_in_words(job, None, None)) == (told, told)


def test_a_sampled_job_is_estimated_from_one_whose_answers_may_be_as_long() -> None:
    def sampled(job_id: str, max_new_tokens: int, **changes: Any) -> JobNow:
        spec = {"algorithm": "grpo", "task": "mode:copy", "steps": 30, "prompts_per_step": 8, "group_size": 8}
        return read_job(
            job_of(
                job_id=job_id, spec={**spec, "max_new_tokens": max_new_tokens}, **changes, trained_tokens=0
            )
        )

    job, ended = sampled("job_a", 16, step=0), {"state": "succeeded", "finished_at": 1060.0, "step": 30}
    longer, alike = sampled("job_b", 512, **ended), sampled("job_c", 16, **ended)
    size = step_size(job, row_tokens=None)
    assert size == 64
    step_time = step_time_of([longer, alike], like=job, size=size)
    assert time_in_words(job, size, step_time) == "about 1 min 0 s; an estimate from job_c"


def test_a_plan_says_what_a_job_will_do() -> None:
    rows = {row["name"]: row["value"] for row in plan_rows(read_job(job_of()), tokens="30", time="long")}
    assert rows == {
        "job": "job_a",
        "policy": "support, over smollm2",
        "rows": "800 of support.jsonl",
        "tokens": "30",
        "steps": "270: 3 epochs, 8 rows a step",
        "method": "sft",
        "learning rate": "0.0002, linear, 9 steps of warm-up",
        "evaluation": "valid_loss on 80 rows held out, every 2 steps; the best revision is the result",
        "time": "long",
    }


@pytest.mark.parametrize(
    ("file", "asked"),
    [
        ("supervised.jsonl", "f bhfd="),
        ("dpo.jsonl", "f bhfd="),
        ("reinforcement.jsonl", "f bhfd="),
    ],
)
def test_the_example_rows_are_good_and_show_what_to_ask(file: str, asked: str) -> None:
    report, _ = check_file(EXAMPLES / file)
    assert (report.count, report.rows) == (0, 128)
    row = json.loads((EXAMPLES / file).read_text().splitlines()[0])
    example = example_of(row, report.format)
    assert (example.prompt, example.is_chat) == (asked, True)


def test_no_example_row_is_held_out_too() -> None:
    for method in ("supervised", "dpo", "reinforcement"):
        _, trained = check_file(EXAMPLES / f"{method}.jsonl")
        _, held_out = check_file(EXAMPLES / f"{method}-held-out.jsonl")
        assert shared_rows(trained, held_out).count == 0


def test_plain_rows_are_asked_without_a_chat() -> None:
    assert example_of({"prompt": "2+2=", "completion": "4"}, Format.COMPLETION).is_chat is False
    assert example_of({"text": "x" * 500}, Format.TEXT).prompt == "x" * 33
    part = [{"role": "user", "content": [{"type": "text", "text": "it's"}]}]
    chat = example_of({"prompt": part, "completion": part}, Format.COMPLETION)
    lines = serving_lines("support@2", chat, url="http://h:1", key_in_shell="$MINT_API_KEY")
    ask, curl = lines.split("\n", 1)
    assert shlex.split(ask) == ["mint", "ask", "support@2", "it's", "--chat"]
    words = shlex.split(curl)
    assert words[1] == "http://h:1/v1/chat/completions"
    assert json.loads(words[-1])["messages"] == [{"role": "user", "content": "it's"}]


def test_steps_of_a_job_on_a_file_show_its_numbers_at_80_columns() -> None:
    job = read_job(job_of())
    rows = step_rows(job, job.steps, {DIGEST: "slot"})
    columns = fitting(step_columns(job), rows, width=80)
    titles = [column.title for column in columns]
    assert titles == ["step", "epoch", "loss", "accuracy", "valid loss", "rate", "revision", "tier"]
    assert cells(rows[1], columns) == ("2", "0.02", "2.000", "0.500", "2.125", "0.0001", "2", "slot")
    narrow = [column.title for column in fitting(step_columns(job), rows, width=40)]
    assert narrow == ["step", "loss", "valid loss", "revision"]


def test_without_a_terminal_a_step_is_a_line_of_its_numbers() -> None:
    console = Console(file=io.StringIO(), width=200)
    JobView(console)(read_job(job_of()), [])
    assert console.file.getvalue().splitlines() == [
        "step   1  loss 2.500  accuracy 0.500  rate 0.0001  revision 1",
        "step   2  loss 2.000  accuracy 0.500  valid loss 2.125  rate 0.0001  revision 2",
    ]


def test_the_headline_names_the_file_the_best_score_and_what_was_left_out() -> None:
    told = "support on support.jsonl: running, step 2/270, 20 s, about 44 min 40 s left, "
    assert headline(read_job(job_of()), now=1020.0) == (
        told + "best revision 2 (valid_loss 2.125), 2 rows too long"
    )


def test_a_result_is_named_with_its_score() -> None:
    job = read_job(job_of(state="succeeded", result={"number": 2, "digest": DIGEST}))
    assert result_in_words(job) == "support@2: valid_loss 2.125 on 80 rows"


def rewarded(*scores: float | None, **changes: Any) -> Any:
    """Return a job of rft whose steps have these scores; each was sampled at the revision before."""
    job = job_of(state="succeeded", result={"number": 1, "digest": DIGEST}, **changes)
    job["spec"] |= {"algorithm": "rft", "group_size": 8, "steps": len(scores)}
    evaluation = {**job["spec"]["data"]["evaluation"], "metric": "valid_reward_mean"}
    file = {"filename": "held-out.jsonl", "rows": 8}
    job["spec"]["data"] |= {"evaluation": {**evaluation, "file": file, "holdout": 0.0}}
    job["best"] = {"number": 1, "metric": "valid_reward_mean", "value": scores[0]}
    job["steps"] = [
        {
            "step": number,
            "state": "published",
            "revision": {"number": number, "digest": DIGEST},
            "sampled_number": number - 1 or None,
            "reward_mean": number / 10,
            "valid_reward_mean": score,
        }
        for number, score in enumerate(scores, start=1)
    ]
    return job


def test_equal_scores_are_called_a_tie_and_few_validation_rows_few() -> None:
    job = read_job(rewarded(0.125, 0.0, 0.125, None))
    assert result_in_words(job) == (
        "support@1: valid_reward_mean 0.125 on 8 rows, a tie with revision 3: these rows show no difference"
    )
    assert "best revision 1 (valid_reward_mean 0.125, a tie with 1 other)" in headline(job, now=1020.0)
    rows = {row["name"]: row["value"] for row in plan_rows(job, tokens="", time="")}
    assert rows["evaluation"] == (
        "valid_reward_mean on 8 rows of held-out.jsonl, every 2 steps; the best revision is the result;"
        " with so few rows, close scores may differ by chance"
    )


def test_one_row_held_out_and_few_steps_are_in_the_plan() -> None:
    job = job_of()
    job["spec"] |= {"steps": 5}
    job["spec"]["data"]["training"]["rows"] = 12
    rows = {row["name"]: row["value"] for row in plan_rows(read_job(job), tokens="", time="")}
    assert str(rows["evaluation"]).startswith("valid_loss on 1 row held out, every 2 steps")
    assert rows["steps"] == "5: 3 epochs, 8 rows a step; these are few: --epochs 15"
    job["spec"]["data"]["training"]["rows"] = 3
    rows = {row["name"]: row["value"] for row in plan_rows(read_job(job), tokens="", time="")}
    assert str(rows["steps"]).endswith("these are few: more rows, or a smaller --batch-size")


def test_a_reward_stands_beside_the_revision_that_was_sampled() -> None:
    job = read_job(rewarded(0.125, 0.25))
    rows = step_rows(job, job.steps, {})
    columns = fitting(step_columns(job), rows, width=80)
    assert [column.title for column in columns] == [
        "step", "sampled", "reward", "valid reward", "revision", "digest", "tier"
    ]  # fmt: skip
    assert cells(rows[0], columns)[:5] == ("1", "base", "0.100", "0.125", "1")
    assert cells(rows[1], columns)[:5] == ("2", "1", "0.200", "0.250", "2")


def test_a_score_that_is_sampled_after_its_step_has_a_line_of_its_own_in_a_pipe() -> None:
    console = Console(file=io.StringIO(), width=200)
    view = JobView(console)
    for scores in ((None, None), (0.125, None), (0.125, 0.25), (0.125, 0.25)):
        view(read_job(rewarded(*scores)), [])
    assert console.file.getvalue().splitlines() == [
        "step   1  sampled base  reward 0.100  revision 1",
        "step   2  sampled 1  reward 0.200  revision 2",
        "step   1  valid reward 0.125  revision 1",
        "step   2  valid reward 0.250  revision 2",
    ]


def test_a_job_says_in_a_pipe_that_it_waits_and_that_it_goes_on() -> None:
    console = Console(file=io.StringIO(), width=200)
    view = JobView(console)
    for waits_for in ("", "base tiny is not started", "base tiny is not started", ""):
        view(read_job(job_of(steps=[], waits_for=waits_for)), [])
    assert console.file.getvalue().splitlines() == ["base tiny is not started", "the job goes on"]


def test_a_promotion_is_in_the_plan_and_what_came_of_it_is_told() -> None:
    def promoting(**told: object) -> JobNow:
        return read_job(job_of(fine_tuning={"method": "supervised", "promote": {"alias": "prod", **told}}))

    rows = {row["name"]: row["value"] for row in plan_rows(promoting(ended_at=None), tokens="", time="")}
    assert rows["promotion"] == "alias prod is pointed at the result"
    found = [
        promotion_in_words(job, job.promotion)
        for job in (
            promoting(ended_at=None),
            promoting(ended_at=1.0, problem=""),
            promoting(ended_at=1.0, problem="it is frozen"),
        )
        if job.promotion is not None
    ]
    assert found == [
        "alias prod is not moved yet: mint alias list support",
        "alias prod was pointed at it",
        "alias prod was not moved: it is frozen",
    ]
