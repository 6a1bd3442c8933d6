"""`mint train` as values: the request to the API, the plan, and advice for the result."""

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mint_client.core.jobs import JobNow, PromotionNow
from mint_client.core.tables import Row, counted
from mint_common.algorithms import BUILT_IN, OPENAI_METHODS
from mint_common.datasets import MAX_EPOCHS, Format, Method

MAX_PROMPT = 100
"""Characters of a prompt that is shown as an example."""
FEW_STEPS = 20
"""Steps of Adam below which a loss falls little."""
FEW_ROWS = 50
"""Validation rows below which the mean of rewards has a standard error of up to 0.07 and more."""
Json = Any  # the gateway's JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """A command line's settings of a job; None and "" leave the choice to the server.

    ``method`` is that of the file's rows, ``own_method`` an algorithm that the stack adds for such rows.
    """

    method: Method
    own_method: str = ""
    grader: Json = None
    validation_file: str = ""
    holdout: float | None = None
    every: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    rank: int | None = None
    seed: int | None = None
    drop_long: bool = False
    reset_optimizer: bool = False
    promote: str = ""
    gradient: Json = None


def job_body(wishes: Wishes, *, model: str, training_file: str, suffix: str | None) -> Json:
    """Return the body of ``POST /v1/fine_tuning/jobs``; ``suffix`` is of a base, whose policy is new."""
    numbers = _present({"n_epochs": wishes.epochs, "batch_size": wishes.batch_size})
    body: Json = {"model": model, "training_file": training_file, "suffix": suffix, "seed": wishes.seed}
    body["validation_file"] = wishes.validation_file or None
    usual = next(one.method for one in BUILT_IN if one.rows == wishes.method)
    if usual in OPENAI_METHODS:
        settings = _present({"hyperparameters": numbers, "grader": wishes.grader})
        body["method"] = {"type": usual, usual: settings}
    else:
        body["hyperparameters"] = numbers
    extras = {
        "method": wishes.own_method or (None if usual in OPENAI_METHODS else usual),
        "rank": wishes.rank,
        "learning_rate": wishes.learning_rate,
        "on_long": "drop" if wishes.drop_long else None,
        "optimizer": "reset" if wishes.reset_optimizer else None,
        "evaluation": _present({"holdout": wishes.holdout, "every": wishes.every}) or None,
        "gradient": wishes.gradient,
        "promote": {"alias": wishes.promote} if wishes.promote else None,
    }
    return _present({**body, "mint": _present(extras)})


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def suffix_of(filename: str) -> str:
    """Return the suffix of a policy that is named after a file."""
    kept = re.sub(r"[^a-z0-9]+", "-", filename.rpartition(".")[0].lower() or filename.lower())
    return kept.strip("-")[:40] or "tuned"


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCount:
    """Tokens of ``rows`` rows as the base's trainer renders them; ``trained`` of them carry a loss."""

    rows: int
    tokens: int
    trained: int


def count_tokens(previews: Sequence[Json]) -> TokenCount | None:
    """Return the tokens of previewed rows, each row once; None when none could be rendered."""
    rows = {row["line"]: row["examples"] for preview in previews for row in preview["rows"]}
    lengths = [len(example["tokens"]) for examples in rows.values() for example in examples]
    if not lengths:
        return None
    trained = sum(example["trained_count"] for examples in rows.values() for example in examples)
    return TokenCount(rows=len(rows), tokens=sum(lengths), trained=trained)


def tokens_in_words(count: TokenCount | None, *, rows: int) -> str:
    """Return how many tokens a file of ``rows`` rows has, scaled from those that were counted."""
    if count is None:
        return "not known: no row could be rendered"
    scale = rows / count.rows
    about = "" if count.rows == rows else "about "
    note = "" if count.rows == rows else f"; an estimate from {count.rows} rows"
    trained = (
        f", {_thousands(count.trained * scale)} of them trained" if count.trained else ", all of prompts"
    )
    return f"{about}{_thousands(count.tokens * scale)} an epoch{trained}{note}"


def _thousands(number: float) -> str:
    return f"{round(number):,}"


def plan_rows(job: JobNow, *, tokens: str, time: str) -> list[Row]:
    """Return the plan of a job on a file, as rows of name and value."""
    spec, data = job.spec, job.spec.data
    assert data is not None, "a job on a file"
    answers = f", {spec.group_size} answers to each row" if spec.is_sampled else ""
    epochs = counted(data.epochs, "epoch")
    warm_up = f", {spec.warmup_steps} steps of warm-up" if spec.warmup_steps else ""
    told = {
        "job": job.job_id,
        "policy": f"{job.policy}, over {job.base}",
        "rows": f"{data.training.rows} of {data.training.filename}",
        "tokens": tokens,
        "steps": f"{spec.steps}: {epochs}, {spec.prompts_per_step} rows a step{answers}{_few_steps(job)}",
        "method": f"rft ({spec.algorithm})" if spec.is_sampled else spec.algorithm,
        "learning rate": f"{spec.learning_rate:g}, {spec.schedule}{warm_up}",
        "evaluation": _evaluation(job),
        "time": time,
    }
    if job.promotion is not None:
        told["promotion"] = f"alias {job.promotion.alias} is pointed at the result"
    return [{"name": name, "value": value} for name, value in told.items()]


def _few_steps(job: JobNow) -> str:
    """Return what to do about a job of few steps."""
    spec, data = job.spec, job.spec.data
    if spec.steps >= FEW_STEPS or data is None:
        return ""
    trained = data.training.rows - data.held_out_rows
    epochs = math.ceil(FEW_STEPS * spec.prompts_per_step / trained)
    advice = f"--epochs {epochs}" if epochs <= MAX_EPOCHS else "more rows, or a smaller --batch-size"
    return f"; these are few: {advice}"


def _evaluation(job: JobNow) -> str:
    found, count = job.spec.data.evaluation if job.spec.data else None, job.validation_rows
    if found is None:
        return "none: --validation FILE or --holdout SHARE"
    origin = "held out" if found.file is None else f"of {found.file.filename}"
    rows = f"{counted(count, 'row')} {origin}"
    kept = f"the {found.keep} revision is the result"
    when = "after each step" if found.every == 1 else f"every {found.every} steps"
    few = "" if count >= FEW_ROWS else "; with so few rows, close scores may differ by chance"
    return f"{found.metric} on {rows}, {when}; {kept}{few}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt of a file; ``is_chat``: it is a user's message."""

    prompt: str
    is_chat: bool


def example_of(row: Json, kind: Format) -> Example:
    """Return the beginning of a row's prompt."""
    if kind is Format.TEXT:
        return Example(prompt=row["text"][: MAX_PROMPT // 3], is_chat=False)
    asked = row["input"] if kind is Format.PAIRS else row
    prompt = asked["messages"] if "messages" in asked else asked["prompt"]
    if isinstance(prompt, str):
        return Example(prompt=prompt[:MAX_PROMPT], is_chat=False)
    said = [message["content"] for message in prompt if message["role"] == "user"]
    return Example(prompt=_text(said[-1] if said else "Hello")[:MAX_PROMPT], is_chat=True)


def _text(content: Json) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def serving_lines(model: str, example: Example, *, url: str, key_in_shell: str) -> str:
    """Return commands that ask a model; the second works wherever curl does."""
    asked: Json
    route, asked = "completions", {"prompt": example.prompt}
    if example.is_chat:
        route, asked = "chat/completions", {"messages": [{"role": "user", "content": example.prompt}]}
    body = json.dumps({"model": model, **asked, "max_tokens": 64, "temperature": 0}, ensure_ascii=False)
    ask = f"mint ask {model} {shlex.quote(example.prompt)}{' --chat' if example.is_chat else ''}"
    header = f'-H "authorization: Bearer {key_in_shell}" -H "content-type: application/json"'
    return f"{ask}\ncurl {url}/v1/{route} {header} \\\n  -d {shlex.quote(body)}"


def result_in_words(job: JobNow) -> str:
    """Return the model of a successful job, and its score."""
    assert job.result is not None, "a job that succeeded"
    score = job.score_of(job.result.number)
    if score is None:
        return f"{job.policy}@{job.result.number}"
    rows = counted(job.validation_rows, "row")
    scored = f"{job.policy}@{job.result.number}: {job.metric} {score:.3f} on {rows}"
    if not job.ties:
        return scored
    others = f"revision{'s' if len(job.ties) > 1 else ''} {', '.join(map(str, job.ties))}"
    return f"{scored}, a tie with {others}: these rows show no difference"


def promotion_in_words(job: JobNow, promotion: PromotionNow) -> str:
    """Return what came of a job's promotion."""
    if promotion.ended_at is None:
        return f"alias {promotion.alias} is not moved yet: mint alias list {job.policy}"
    if promotion.problem:
        return f"alias {promotion.alias} was not moved: {promotion.problem}"
    return f"alias {promotion.alias} was pointed at it"
