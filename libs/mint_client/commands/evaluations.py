"""`mint eval`: score revisions, record and list scores."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing, group
from mint_client.commands.environments import (
    EnvArgsOption,
    EnvOption,
    MaxTurnsOption,
    SplitOption,
    environment_of,
)
from mint_client.commands.names import resolve_revision
from mint_client.commands.options import AfterOption, LimitOption, PolicyArgument
from mint_client.commands.spelling import NamedRevisionArgument, split_name
from mint_client.commands.train import grader_json, sent_file
from mint_client.core.columns import COMPARISON, EVALUATED_ROW, EVALUATION, EVALUATION_RUN
from mint_client.core.refusals import EvaluationFailedError
from mint_client.core.score_rows import seeded_rows
from mint_common.errors import InvalidField
from mint_common.names import MAX_LIMIT

POLL_SECONDS = 0.5
ScoredArgument = Annotated[
    str,
    typer.Argument(
        metavar="POLICY@REV", help="A base, or a revision: number, digest, alias, best or latest (default)."
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id (mint eval runs).")]
TaskOption = Annotated[str | None, typer.Argument(metavar="TASK", help="A task (mint task list).")]
FileOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Instead of a task: a file of rows, or the id of one.")
]
GraderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="JSON",
        help="Grader of the answers to the rows. Without it the score is the loss on the rows.",
    ),
]
SuiteOption = Annotated[
    str | None,
    typer.Option(
        metavar="SUITE", help="Suite of the score. Default: the task, environment, or file and grader."
    ),
]
CountOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Number of prompts or tasks. Default: 64, or all rows of a file."),
]
SamplesOption = Annotated[
    int,
    typer.Option(metavar="N", help="Episodes of each task of an environment; a task's score is their mean."),
]
SeedOption = Annotated[int, typer.Option(metavar="N", help="Seed of the prompts.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0 is greedy.")]
TokensOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Maximum tokens of an answer. Default: the task's own, or 256 for a file."
    ),
]


def run_evaluation(
    api: PublicApi,
    name: ScoredArgument,
    task: TaskOption = None,
    *,
    env: EnvOption = None,
    env_args: EnvArgsOption = "{}",
    split: SplitOption = None,
    max_turns: MaxTurnsOption = None,
    file: FileOption = None,
    grader: GraderOption = None,
    suite: SuiteOption = None,
    n: CountOption = None,
    samples: SamplesOption = 1,
    seed: SeedOption = 0,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: TokensOption = None,
) -> Listing:
    """Score a revision or a base on a task, in an environment, or on the rows of a file.

    A task uses its held-out prompts, an environment the tasks of a split, --samples episodes each. The score
    of a revision is recorded, and promotion rules act on it. Its suite is the task, environment or file; its
    metric is reward, or valid_loss for a file without a grader. The score of a base is not recorded. Ctrl-C
    stops waiting, not the run; `mint eval cancel` stops the run.

    Example: mint eval run counter@prod progression --n 256
    """
    environment = environment_of(env, env_args, max_turns, split=split)
    asked = _questions(api, task, file, grader, env=environment, suite=suite, n=n, seed=seed)
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "samples": samples}
    begun = api.post("/evaluations/run", {**_scored(api, name), **asked, **sampling})
    (run,) = _ended(api, [name], [begun], on=str(task or env or file))
    return Listing(answer=run, columns=EVALUATION_RUN)


def compare_evaluations(
    api: PublicApi,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A base, POLICY or POLICY@REV.")],
    baseline: Annotated[
        str, typer.Argument(metavar="BASELINE", help="Base, POLICY or POLICY@REV to compare with.")
    ],
    task: TaskOption = None,
    *,
    env: EnvOption = None,
    env_args: EnvArgsOption = "{}",
    split: SplitOption = None,
    max_turns: MaxTurnsOption = None,
    file: FileOption = None,
    grader: GraderOption = None,
    suite: SuiteOption = None,
    n: CountOption = None,
    samples: SamplesOption = 1,
    seed: SeedOption = 0,
    temperature: TemperatureOption = 0.0,
    max_new_tokens: TokensOption = None,
) -> Listing:
    """Score two models on the same prompts, and compare them.

    The difference comes with its 95 % bootstrap interval; with --json there are also the rows that differ
    most, with both answers.

    Example: mint eval compare counter@7 counter@prod progression --n 256
    """
    environment = environment_of(env, env_args, max_turns, split=split)
    asked = _questions(api, task, file, grader, env=environment, suite=suite, n=n, seed=seed)
    sampling = {"temperature": temperature, "max_new_tokens": max_new_tokens, "samples": samples}
    begun = api.post("/evaluations/compare", {"model": model, "baseline": baseline, **asked, **sampling})
    _ended(api, [model, baseline], [begun["run"], begun["baseline"]], on=str(task or env or file))
    runs = {side: begun[side]["run_id"] for side in ("run", "baseline")}
    found = api.get("/evaluations/compare", runs)
    named = {**found, "model": model, "against": baseline}
    return Listing(answer=found, columns=COMPARISON, rows=[named])


def rows_of_evaluation(
    api: PublicApi,
    run: RunArgument,
    *,
    limit: LimitOption = 100,
    after: Annotated[int, typer.Option(metavar="ROW", min=0, help="Only rows after this one.")] = 0,
) -> Listing:
    """List the answers of a run, each with its score or a fault.

    Example: mint eval rows evr_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    found = api.get(path_of("evaluations", "run", run, "rows"), {"limit": limit, "after": after})
    return Listing(answer=found, columns=EVALUATED_ROW, nothing="the run has no rows (any more)")


def _scored(api: PublicApi, name: str) -> Json:
    """Return the model that a run names by POLICY@REV, or by a base's name."""
    if name in {base["name"] for base in api.get("/bases")}:
        return {"model": name}
    policy, _, revision = name.partition("@")
    return {"policy": policy, "revision": revision or "latest"}


def _questions(
    api: PublicApi, task: str | None, file: str | None, grader: Path | None, **others: object
) -> Json:
    """Return what models are asked; a local file is sent first, unless the gateway has it."""
    spec = None if grader is None else grader_json(grader)
    if file is not None and Path(file).is_file():
        file = sent_file(api, Path(file))
    return {"task": task, "file": file, "grader": spec, **others}


def _ended(api: PublicApi, names: Sequence[str], begun: Sequence[Json], *, on: str) -> list[Json]:
    """Return the runs of some models once they have ended. Raises EvaluationFailedError for the first."""
    runs = _follow(api, begun)
    for name, run in zip(names, runs, strict=True):
        if run["state"] != "succeeded":
            raise EvaluationFailedError(name=name, on=on, problem=run["reason"] or run["state"])
    return runs


def _follow(api: PublicApi, runs: Sequence[Json]) -> list[Json]:
    """Return runs once they have ended, under a progress bar on stderr."""
    columns = TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    names = [run["run_id"] for run in runs]
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("scoring", total=sum(run["n"] for run in runs))
            while any(run["state"] == "running" for run in runs):
                time.sleep(POLL_SECONDS)
                runs = [api.get(path_of("evaluations", "run", name)) for name in names]
                progress.update(bar, completed=sum(run["scored"] for run in runs))
    except KeyboardInterrupt:
        typer.echo(f"the scoring goes on: mint eval cancel {' '.join(names)} stops it", err=True)
        raise typer.Exit(130) from None
    return list(runs)


def runs_of_evaluation(api: PublicApi, *, limit: LimitOption = 100) -> Listing:
    """List evaluation runs, newest first, and how each ended.

    Example: mint eval runs --limit 10
    """
    found = api.get("/evaluations/run", {"limit": limit})
    return Listing(answer=found, columns=EVALUATION_RUN, nothing="no run yet: mint eval run POLICY TASK")


def cancel_evaluation(api: PublicApi, run: RunArgument) -> Listing:
    """Cancel an evaluation run; it gets no score.

    Example: mint eval cancel evr_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return Listing(answer=api.post(path_of("evaluations", "run", run, "cancel")), columns=EVALUATION_RUN)


def list_evaluations(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 100, after: AfterOption = None
) -> Listing:
    """List the scores of a policy's revisions, oldest first.

    The seed is that of the run's prompts, if a run scored.

    Example: mint eval list counter
    """
    found = api.get(path_of("policies", policy, "evaluations"), {"limit": limit, "after": after})
    rows = seeded_rows(found, api.get("/evaluations/run", {"limit": MAX_LIMIT}))
    return Listing(
        answer=found, columns=EVALUATION, rows=rows, nothing="no score yet", page_by="evaluation_id"
    )


def record_evaluation(  # arguments of a command
    api: PublicApi,
    revision: NamedRevisionArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Suite that it was scored on.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="Metric that was measured.")],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The score.")],
    *,
    n: Annotated[int, typer.Option(min=1, help="Number of items.")] = 1,
    stderr: Annotated[float | None, typer.Option(help="The score's standard error.")] = None,
) -> Listing:
    """Record a score of a revision; promotion rules act on it.

    Example: mint eval record counter@20 held-out accuracy 0.81 --n 256 --stderr 0.02
    """
    policy, scored = split_name(revision)
    body = {
        "revision": resolve_revision(api, policy, scored),
        "suite": suite,
        "metric": metric,
        "value": _number(value),
        "n": n,
        "stderr": stderr,
    }
    return Listing(answer=api.post(path_of("policies", policy, "evaluations"), body), columns=EVALUATION)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidField(field="VALUE", problem=f"{text!r} is not a number") from error


eval_app = group(
    "Score revisions; list or record scores.",
    run_evaluation,
    compare_evaluations,
    runs_of_evaluation,
    rows_of_evaluation,
    cancel_evaluation,
    list_evaluations,
    record_evaluation,
)
