"""Revisions and bases scored on a user's file with a grader, and compared on the same rows."""

import json
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from e2e.stack import RunningStack, mint
from transformers import AutoModelForCausalLM, AutoTokenizer

from services.standalone.adapters.bases import tiny_folder
from tests.testing.factories import EXACT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PATIENCE_SECONDS = 180.0
WORDS = ["".join(Random(n).choices("abcdefghij", k=4)) for n in range(48)]
ROWS = [{"messages": [{"role": "user", "content": f"f {word}="}], "answer": word} for word in WORDS]


@pytest.fixture(scope="module")
def file(stack: RunningStack) -> str:
    return uploaded(stack, ROWS)


@pytest.fixture(scope="module")
def copier(stack: RunningStack) -> str:
    """A policy whose first revision answers less often with a copy than its last one."""
    stack.make_policy("copier")
    job = stack.wait_for_end(stack.submit("copier", steps=12, prompts_per_step=8, group_size=8))
    assert job["state"] == "succeeded", job["reason"]
    return "copier"


def uploaded(stack: RunningStack, rows: Sequence[Mapping[str, Any]]) -> str:
    data = "\n".join(map(json.dumps, rows)).encode()
    sent = {"files": {"file": ("rows.jsonl", data)}, "data": {"purpose": "fine-tune"}}
    answer = stack.http.post("/v1/files", **sent)
    assert answer.status_code == 200, answer.text
    file_id: str = answer.json()["id"]
    return file_id


def ended(stack: RunningStack, run: Mapping[str, Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := stack.get(f"/evaluations/run/{run['run_id']}"))["state"] == "running":
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    return now


def scored(stack: RunningStack, **body: Any) -> Any:
    asked = {"grader": EXACT, "max_new_tokens": 8, **body}
    return ended(stack, stack.post("/evaluations/run", asked, status=202))


def test_a_revision_s_answers_to_a_file_are_graded_and_its_score_recorded(
    stack: RunningStack, file: str, copier: str
) -> None:
    run = scored(stack, policy=copier, file=file, suite="words")
    assert (run["state"], run["scored"], run["n"], run["dropped"]) == ("succeeded", 48, 48, 0), run
    rows = stack.get(f"/evaluations/run/{run['run_id']}/rows?limit=100")
    assert [row["row"] for row in rows] == list(range(1, 49))
    assert [row["score"] for row in rows] == [
        float(row["answer"] == word) for row, word in zip(rows, WORDS, strict=True)
    ]
    assert run["value"] == pytest.approx(sum(row["score"] for row in rows) / 48)
    (score,) = stack.get(f"/policies/{copier}/evaluations")
    assert (score["suite"], score["metric"], score["n"]) == ("words", "reward", 48)
    assert (score["value"], score["stderr"]) == (run["value"], run["stderr"])
    again = scored(stack, policy=copier, file=file, suite="words", n=20)
    fewer = {row["row"]: row for row in stack.get(f"/evaluations/run/{again['run_id']}/rows")}
    assert len(fewer) == 20
    assert all(fewer[row["row"]] == row for row in rows if row["row"] in fewer)


def test_a_trained_revision_wins_against_its_base_on_the_same_rows(
    stack: RunningStack, file: str, copier: str
) -> None:
    asked = {"file": file, "grader": EXACT, "temperature": 1.0, "max_new_tokens": 8, "seed": 3}
    begun = stack.post("/evaluations/compare", {"model": copier, "baseline": "tiny", **asked}, status=202)
    for side in ("run", "baseline"):
        assert ended(stack, begun[side])["state"] == "succeeded"
    sides = f"run={begun['run']['run_id']}&baseline={begun['baseline']['run_id']}"
    found = stack.get(f"/evaluations/compare?{sides}&rows=5")
    compared = found["comparison"]
    assert compared["n"] == compared["wins"] + compared["losses"] + compared["ties"] == 48
    assert compared["difference"] == pytest.approx(found["run"]["value"] - found["baseline"]["value"])
    assert compared["wins"] > compared["losses"]
    assert compared["interval"]["low"] <= compared["difference"] <= compared["interval"]["high"]
    assert [abs(row["difference"]) for row in compared["rows"]] == [1.0] * 5


def test_the_loss_of_a_file_s_answers_is_what_transformers_computes(stack: RunningStack, copier: str) -> None:
    rows = [{"prompt": f"f {word}=", "completion": word[: 1 + n % 4]} for n, word in enumerate(WORDS)]
    file = uploaded(stack, rows)
    run = scored(stack, model="tiny", file=file, grader=None, max_new_tokens=None)
    assert (run["state"], run["metric"], run["scored"]) == ("succeeded", "valid_loss", 48), run
    losses = [_loss(row["prompt"], row["completion"]) for row in rows]
    found = stack.get(f"/evaluations/run/{run['run_id']}/rows")
    assert [row["weight"] for row in found] == [len(each) for each in losses]
    assert [row["score"] for row in found] == pytest.approx(
        [sum(each) / len(each) for each in losses], abs=1e-3
    )
    tokens = [loss for each in losses for loss in each]
    assert run["value"] == pytest.approx(sum(tokens) / len(tokens), abs=1e-3)
    trained = scored(stack, policy=copier, file=file, grader=None, max_new_tokens=None)
    sides = f"run={trained['run_id']}&baseline={run['run_id']}"
    compared = stack.get(f"/evaluations/compare?{sides}")["comparison"]
    assert compared["difference"] == pytest.approx(trained["value"] - run["value"])
    assert compared["interval"]["low"] <= compared["difference"] <= compared["interval"]["high"]
    (score,) = [
        each for each in stack.get(f"/policies/{copier}/evaluations") if each["metric"] == "valid_loss"
    ]
    assert (score["suite"], score["value"]) == (f"file:{file}", trained["value"])


def _loss(prompt: str, completion: str) -> list[float]:
    """Return the cross-entropy of each token of a completion and of the end token, of the base itself."""
    tokenizer, model = _base()
    before = tokenizer(prompt).input_ids
    answer = [*tokenizer(completion, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    tokens = torch.tensor([[*before, *answer]])
    with torch.no_grad():
        logprobs = model(tokens).logits[0, :-1].float().log_softmax(-1)
    return [-logprobs[len(before) - 1 + n, token].item() for n, token in enumerate(answer)]


@cache
def _base() -> Any:
    folder = tiny_folder()
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(
        folder, dtype="float32"
    )


def test_grader_errors_are_counted_and_too_many_fail_the_run(stack: RunningStack) -> None:
    missing = [{"messages": row["messages"]} if n % 6 == 0 else row for n, row in enumerate(ROWS)]
    file = uploaded(stack, missing)
    run = scored(stack, model="tiny", file=file)
    assert (run["state"], run["scored"], run["grader_errors"]) == (
        "succeeded",
        40,
        {"invalid_variable_error": 8},
    )
    rows = stack.get(f"/evaluations/run/{run['run_id']}/rows")
    assert (rows[0]["score"], rows[0]["fault"]) == (None, "invalid_variable_error")
    absent = {**EXACT, "reference": "{{ item.nothing }}"}
    run = scored(stack, model="tiny", file=file, grader=absent, n=4)
    assert (run["state"], run["value"]) == ("failed", None)
    assert "there is no item.nothing" in run["reason"]


def test_rows_that_leave_no_room_for_an_answer_fail_the_run_or_are_left_out(stack: RunningStack) -> None:
    long = {"messages": [{"role": "user", "content": "f " + "a" * 2000 + "="}], "answer": "a"}
    file = uploaded(stack, [*ROWS[:3], long])
    refused = scored(stack, model="tiny", file=file)
    assert refused["state"] == "failed"
    assert "Line 4 of rows.jsonl" in refused["reason"]
    run = scored(stack, model="tiny", file=file, on_long="drop")
    assert (run["state"], run["scored"], run["dropped"]) == ("succeeded", 3, 1)


@pytest.mark.parametrize(
    ("change", "status", "field"),
    [
        ({"n": 49}, 422, "n"),
        ({"grader": {**EXACT, "operation": "is"}}, 422, "grader.operation"),
        ({"max_new_tokens": 100_000}, 422, "max_new_tokens"),
        ({"file": "file-none"}, 404, None),
        ({"model": "nobody"}, 404, None),
    ],
)
def test_what_is_wrong_is_told_before_a_run_begins(
    stack: RunningStack, file: str, change: dict[str, Any], status: int, field: str | None
) -> None:
    body = {"model": "tiny", "file": file, "grader": EXACT, **change}
    error = stack.post("/evaluations/run", body, status=status)["error"]
    assert error.get("field") == field


def test_the_command_line_sends_a_file_and_scores_and_compares_on_it(
    stack: RunningStack, tmp_path: Path
) -> None:
    rows, grader = tmp_path / "words.jsonl", tmp_path / "same.json"
    rows.write_text("\n".join(map(json.dumps, ROWS[:8])))
    grader.write_text(json.dumps(EXACT))
    asked = ["--file", str(rows), "--grader", str(grader), "--max-new-tokens", "8"]
    run = json.loads(told(stack, "eval", "run", "tiny", *asked, "--json"))
    assert (run["state"], run["scored"], run["file"]["filename"]) == ("succeeded", 8, "words.jsonl")
    title, *lines = told(stack, "eval", "rows", run["run_id"]).splitlines()
    assert title.split("\t") == ["row", "score", "error", "answer"]
    assert len(lines) == 8
    compared = told(stack, "eval", "compare", "tiny", "tiny", *asked).splitlines()[-1].split("\t")
    assert compared[4:] == ["0.000", "0.000", "0.000", "0", "0", "8", "8"]


def told(stack: RunningStack, *arguments: str) -> str:
    done = mint(*arguments, "--dir", stack.folder, seconds=300)
    assert done.returncode == 0, done.stderr
    return done.stdout
