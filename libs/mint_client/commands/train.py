"""`mint train`: rows become a model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer
from rich.console import Console

from mint_client.adapters.prepared_rows import PreparedRows
from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.adapters.row_files import send_rows
from mint_client.commands.api import api_command
from mint_client.commands.jobs import estimated_time, watch_job
from mint_client.commands.options import GradientOption, ResetOptimizerOption
from mint_client.commands.sources import (
    MapOption,
    SourceArgument,
    StrictOption,
    prepared,
    refusing,
    without_problems,
)
from mint_client.core.columns import FIELD
from mint_client.core.gradients import gradient_of
from mint_client.core.jobs import JobNow, read_job
from mint_client.core.refusals import RowsRefusedError
from mint_client.core.training import (
    Example,
    TokenCount,
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
from mint_client.views.job import follow_promotion
from mint_client.views.rows import print_understood
from mint_client.views.terminal import print_json, print_rows, sending
from mint_common.datasets import MAX_BATCH, MAX_EPOCHS, Method, Problem, method_of
from mint_common.errors import InvalidField, NotFound, Unavailable

PREVIEWED_ROWS = 20
TOO_LONG = "too_long"


@api_command
def train(  # arguments of a command
    api: PublicApi,
    source: SourceArgument,
    *,
    base: Annotated[str, typer.Option(metavar="BASE", help="Train a new policy over this base.")] = "",
    policy: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="Policy to train further, or the name of a new one. Default: a name made of base and file.",
        ),
    ] = "",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(get_args(Method))}, or one of the stack's own. Default: by the file's format.",
        ),
    ] = "",
    grader: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file with the grader of rft (docs/guides/graders.md)."),
    ] = None,
    renamed: MapOption = "",
    strict: StrictOption = False,
    validation: Annotated[
        str, typer.Option(metavar="SOURCE", help="Rows to evaluate on during training.")
    ] = "",
    holdout: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of SOURCE to evaluate on instead, such as 0.1."),
    ] = None,
    every: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps between evaluations.")] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, max=MAX_EPOCHS, help="Number of epochs. Default: 3, more for few rows."
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MAX_BATCH, help="Rows per step. Default: 8.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="RATE", help="Learning rate of Adam at the start.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The LoRA rank of a new policy.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the order of rows.")] = None,
    drop_long: Annotated[
        bool,
        typer.Option(
            "--drop-long", help="Drop rows that are longer than the context instead of refusing the file."
        ),
    ] = False,
    gradient: GradientOption = None,
    reset_optimizer: ResetOptimizerOption = False,
    promote: Annotated[
        str, typer.Option(metavar="ALIAS", help="Point this alias at the result, if it succeeds.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Show the job's steps until it ends.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the job at its end as JSON; all else goes to stderr.")
    ] = False,
) -> None:
    """Train a policy on rows. Checks and converts them, shows one as it is trained, uploads them, shows the
    plan, then each step.

    The method follows from the rows: sft for chats, completions and texts, dpo for pairs, kto for labels, rft
    for rows with a --grader. Ctrl-C stops the command, not the job. The last line shows how to ask the model.
    The exit code is 1 if the job does not succeed or the alias of --promote was not moved.

    Example: mint train support.jsonl --base smollm2 --holdout 0.1 --epochs 2
    """
    if every is not None and not validation and holdout is None:
        raise InvalidField(field="--every", problem="needs rows to measure on: --validation or --holdout")
    sources = filter(None, (source, validation))
    with refusing(), prepared(*sources, renamed=renamed, strict=strict) as found:
        rows, *others = map(without_problems, found)
        wishes = Wishes(
            method=_method(rows, method),
            own_method="" if method in get_args(Method) else method,
            holdout=holdout,
            every=every,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            rank=rank,
            seed=seed,
            drop_long=drop_long,
            reset_optimizer=reset_optimizer,
            promote=promote,
            gradient=gradient_of(gradient or ()),
        )
        wishes = replace(wishes, grader=_read_grader(api, grader, wishes.method))
        print_understood(Console(stderr=True), rows)
        example = example_of(rows.rows(1)[0][1], rows.format)
        model = _model(api, rows, base=base, policy=policy)
        job = _begin(api, rows, others, wishes, model, is_error=as_json)
    if follow:
        job = watch_job(api, job.job_id, Console(stderr=as_json))
        if job.state == "succeeded":
            job = follow_promotion(api, job, partial(typer.echo, err=True))
    if as_json:
        print_json(api.get(path_of("jobs", job.job_id)))
    elif not follow:
        typer.echo(f"it goes on: mint job show {job.job_id} --watch", err=True)
    elif job.state == "succeeded":
        _tell(job, example, api)
    if follow and not _is_well(job):
        raise typer.Exit(1)


def _is_well(job: JobNow) -> bool:
    """Return whether a job succeeded, and its alias was moved if one was to be."""
    promoted = job.promotion is None or (not job.promotion.problem and job.promotion.ended_at is not None)
    return job.state == "succeeded" and promoted


def _tell(ended: JobNow, example: Example, api: PublicApi) -> None:
    """Print what a job made, and how to ask it."""
    typer.echo(f"\n{result_in_words(ended)}")
    if ended.promotion is not None:
        typer.echo(promotion_in_words(ended, ended.promotion))
    typer.echo()
    model = f"{ended.policy}@{ended.result.number}" if ended.result else ended.policy
    typer.echo(serving_lines(model, example, url=api.url, key_in_shell=api.key_in_shell))


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """The model to train: a base or a policy, by its ``name``. ``new_policy`` is created first, unless empty.

    ``suffix`` is for a base, whose new policy is named by the server.
    """

    name: str
    base: str
    new_policy: str = ""
    suffix: str | None = None


def _method(rows: PreparedRows, wanted: str) -> Method:
    """Return the method of a file's rows. Raises InvalidField if another one is wanted."""
    found = method_of(rows.format)
    if wanted in get_args(Method) and wanted != found:
        problem = f"{wanted} does not train on {rows.format} rows, which are of {found}"
        raise InvalidField(field="--method", problem=problem)
    return found


def _read_grader(api: PublicApi, path: Path | None, method: Method) -> Json:
    """Return a grader that the server takes."""
    if (path is not None) != (method == "rft"):
        problem = "is missing: rft rewards answers by it" if path is None else f"is of rft, not of {method}"
        raise InvalidField(field="--grader", problem=problem)
    if path is None:
        return None
    return api.post_openai("/fine_tuning/alpha/graders/validate", {"grader": grader_json(path)})["grader"]


def grader_json(path: Path) -> Json:
    """Return the JSON of a file with a grader. Raises InvalidField, OSError."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidField(field="--grader", problem=f"{path} is not JSON: {error}") from error


def _model(api: PublicApi, rows: PreparedRows, *, base: str, policy: str) -> Model:
    if not policy:
        if not base:
            raise InvalidField(field="--base", problem="is missing: name a base, or a --policy to train on")
        _check_base(api, base)
        return Model(name=base, base=base, suffix=suffix_of(rows.path.name))
    try:
        found = api.get(path_of("policies", policy))
    except NotFound:
        if not base:
            raise
        _check_base(api, base)
        return Model(name=policy, base=base, new_policy=policy)
    if base and base != found["base"]:
        raise InvalidField(field="--base", problem=f"is {base}, and {policy} is over {found['base']}")
    return Model(name=policy, base=found["base"])


def _check_base(api: PublicApi, name: str) -> None:
    """Raise NotFound for an unknown base before a file is sent for it."""
    api.get(path_of("bases", name))


def _begin(
    api: PublicApi,
    rows: PreparedRows,
    others: Sequence[PreparedRows],
    wishes: Wishes,
    model: Model,
    *,
    is_error: bool,
) -> JobNow:
    """Send the files, of which the others are for validation, begin the job and show its plan."""
    training_file = sent_file(api, rows.path)
    validation_file = "".join(sent_file(api, other.path) for other in others)
    count = _count(api, training_file, rows, wishes, base=model.base)
    wishes = replace(wishes, validation_file=validation_file)
    if model.new_policy:
        lora = {} if wishes.rank is None else {"lora": {"rank": wishes.rank}}
        api.post("/policies", {"name": model.new_policy, "base": model.base, **lora})
        wishes = replace(wishes, rank=None)
    body = job_body(wishes, model=model.name, training_file=training_file, suffix=model.suffix)
    made = api.post_openai("/fine_tuning/jobs", body)
    job = read_job(api.get(path_of("jobs", made["mint"]["job_id"])))
    for warning in job.warnings:
        typer.echo(f"mint: {warning}", err=True)
    tokens = tokens_in_words(count, rows=rows.count)
    time = estimated_time(api, job, row_tokens=None if count is None else count.trained / count.rows)
    print_rows(plan_rows(job, tokens=tokens, time=time), FIELD, nothing="", is_error=is_error)
    return job


def sent_file(api: PublicApi, path: Path) -> str:
    """Return the id of a file of rows, which is sent unless the gateway has it."""
    console = Console(stderr=True)
    with sending(console, path.name) as report:
        sent = send_rows(api, path, report)
    typer.echo(f"{path.name} is {sent.file_id}{', sent before' if sent.was_there else ''}", err=True)
    return sent.file_id


def _count(
    api: PublicApi, file_id: str, rows: PreparedRows, wishes: Wishes, *, base: str
) -> TokenCount | None:
    """Return the token counts of some rows, at the beginning and in the middle; None if the trainer does not
    answer.

    Raises RowsRefusedError for rows that the base cannot be trained on.
    """
    asked = {"base": base, "method": wishes.method, "n": PREVIEWED_ROWS}
    places = (1, rows.count // 2) if rows.count > 2 * PREVIEWED_ROWS else (1, PREVIEWED_ROWS + 1)
    path = path_of("files", file_id, "preview")
    try:
        found = [api.post(path, {**asked, "first_line": line}) for line in places]
    except Unavailable as error:
        typer.echo(f"mint: tokens are not counted: {error}", err=True)
        return None
    problems = {each["line"]: each for preview in found for each in preview["problems"]}
    kept = [each for each in problems.values() if each["code"] != TOO_LONG or not wishes.drop_long]
    if kept:
        told = msgspec.convert(kept, list[Problem])
        raise RowsRefusedError(what=rows.name, count=len(told), problems=told)
    return count_tokens(found)
