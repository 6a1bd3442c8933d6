"""`mint eval`: score revisions, record and list scores."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from services.standalone.adapters.public_api import Json, PublicApi, path_of
from services.standalone.commands.api import Listing, group
from services.standalone.commands.jobs import TaskArgument
from services.standalone.commands.names import resolve_revision
from services.standalone.commands.options import AfterOption, LimitOption, PolicyArgument, RevisionArgument
from services.standalone.core.columns import EVALUATION, EVALUATION_RUN
from services.standalone.core.refusals import EvaluationFailedError

POLL_SECONDS = 0.5
ScoredArgument = Annotated[
    str,
    typer.Argument(
        metavar="POLICY@REV", help="A revision: number, digest, alias, best or latest (the default)."
    ),
]


def run_evaluation(
    api: PublicApi,
    name: ScoredArgument,
    task: TaskArgument,
    *,
    n: Annotated[int, typer.Option("--n", metavar="N", min=1, help="Held-out prompts.")] = 64,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Which prompts.")] = 0,
    temperature: Annotated[float, typer.Option("--temperature", min=0.0, help="0: greedy.")] = 0.0,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", help="Default: the task's own."),
    ] = None,
) -> Listing:
    """Score a revision on a task's held-out prompts and record the mean reward; rules act upon it.

    The suite of the score is the task, its metric is reward. Ctrl-C ends the waiting, not the scoring: `mint
    eval cancel` does.

    Example: mint eval run counter@prod progression --n 256
    """
    policy, _, revision = name.partition("@")
    body = {"policy": policy, "revision": revision or "latest", "task": task, "n": n}
    sampling = {"seed": seed, "temperature": temperature, "max_new_tokens": max_new_tokens}
    begun = api.post("/evaluations/run", {**body, **sampling})
    try:
        run = _follow(api, begun)
    except KeyboardInterrupt:
        typer.echo(f"the scoring goes on: mint eval cancel {begun['run_id']} stops it", err=True)
        raise typer.Exit(130) from None
    if run["state"] != "succeeded":
        raise EvaluationFailedError(name=name, task=task, problem=run["reason"] or run["state"])
    return Listing(answer=run, columns=EVALUATION_RUN)


def _follow(api: PublicApi, run: Json) -> Json:
    """Return a run once it has ended, under a progress bar on stderr."""
    columns = TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scoring", total=run["n"])
        while run["state"] == "running":
            time.sleep(POLL_SECONDS)
            run = api.get(path_of("evaluations", "run", run["run_id"]))
            progress.update(task, completed=run["scored"])
    return run


def runs_of_evaluation(api: PublicApi, *, limit: LimitOption = 100) -> Listing:
    """List evaluation runs, newest first: what is being scored, and how each ended.

    Example: mint eval runs --limit 10
    """
    found = api.get("/evaluations/run", {"limit": limit})
    return Listing(answer=found, columns=EVALUATION_RUN, nothing="no run yet: mint eval run POLICY TASK")


def cancel_evaluation(
    api: PublicApi,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's id (mint eval runs).")],
) -> Listing:
    """Stop an evaluation run without a score.

    Example: mint eval cancel evr_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return Listing(answer=api.post(path_of("evaluations", "run", run, "cancel")), columns=EVALUATION_RUN)


def list_evaluations(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 100, after: AfterOption = None
) -> Listing:
    """List the scores of a policy's revisions, oldest first.

    Example: mint eval list counter
    """
    found = api.get(path_of("policies", policy, "evaluations"), {"limit": limit, "after": after})
    return Listing(answer=found, columns=EVALUATION, nothing="no score yet", page_by="evaluation_id")


def record_evaluation(  # noqa: PLR0917  # arguments of a command
    api: PublicApi,
    policy: PolicyArgument,
    revision: RevisionArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="What it was scored on.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="What was measured.")],
    value: Annotated[float, typer.Argument(metavar="VALUE", help="The score.")],
    *,
    n: Annotated[int, typer.Option("--n", min=1, help="Over how many items.")] = 1,
    stderr: Annotated[float | None, typer.Option("--stderr", help="The score's standard error.")] = None,
) -> Listing:
    """Record a score of a revision; rules act upon it.

    Example: mint eval record counter 20 held-out accuracy 0.81 --n 256 --stderr 0.02
    """
    scored = {"revision": resolve_revision(api, policy, revision), "value": value, "n": n, "stderr": stderr}
    body = {**scored, "suite": suite, "metric": metric}
    return Listing(answer=api.post(path_of("policies", policy, "evaluations"), body), columns=EVALUATION)


eval_app = group(
    "Score revisions; list or record scores.",
    run_evaluation,
    runs_of_evaluation,
    cancel_evaluation,
    list_evaluations,
    record_evaluation,
)
