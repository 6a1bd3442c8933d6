"""`mint task`, `mint job`: tasks to train on, and training jobs."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.adapters.tensorboard import write_tensorboard
from mint_client.commands.api import Listing, group
from mint_client.commands.environments import EnvArgsOption, JobEnvOption, MaxTurnsOption, environment_of
from mint_client.commands.options import (
    GradientOption,
    JsonOption,
    LimitOption,
    PolicyArgument,
    ResetOptimizerOption,
)
from mint_client.core.columns import FIELD, JOB, STALENESS, TASK
from mint_client.core.gradients import gradient_of
from mint_client.core.job_curves import curves_csv, scalars_of
from mint_client.core.job_times import step_size, step_time_of, time_in_words
from mint_client.core.job_trace import trace_of
from mint_client.core.jobs import (
    JobNow,
    headline,
    job_row,
    phase_line,
    read_job,
    staleness_rows,
    step_columns,
    step_rows,
    tiers_of,
    waiting_notes,
)
from mint_client.core.rollouts import rollout_lines
from mint_client.core.tables import field_rows
from mint_client.views.job import JobView, follow_job
from mint_client.views.terminal import print_json, print_rows
from mint_common.algorithms import Algorithms, task_algorithms

COMPARED_JOBS = 50
_ALGORITHMS = ", ".join(task_algorithms(Algorithms()))

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id (mint job list).")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="A task (mint task list).")]
OptionalTaskArgument = Annotated[
    str | None,
    typer.Argument(metavar="TASK", help="A task (mint task list), or --env.", show_default=False),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Show the steps until the job ends. Ctrl-C does not stop the job.")
]


def list_tasks(
    api: PublicApi,
    *,
    find: Annotated[
        str, typer.Option(metavar="TEXT", help="Only tasks with this text in the name or description.")
    ] = "",
) -> Listing:
    """List the tasks that a policy can be trained on.

    Example: mint task list --find arithmetic
    """
    found = [
        task for task in api.get("/tasks") if find.lower() in f"{task['name']} {task['description']}".lower()
    ]
    return Listing(answer=found, columns=TASK, nothing=f"no task has {find!r} in its name")


def show_task(api: PublicApi, task: TaskArgument) -> Listing:
    """Show a task and the settings that it recommends.

    Example: mint task show progression
    """
    found = api.get(path_of("tasks", task))
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


def create_job(  # arguments of a command
    api: PublicApi,
    policy: PolicyArgument,
    task: OptionalTaskArgument = None,
    *,
    env: JobEnvOption = None,
    env_args: EnvArgsOption = "{}",
    max_turns: MaxTurnsOption = None,
    eval_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Score revisions in the environment every N steps, and the last one."),
    ] = None,
    eval_tasks: Annotated[
        int | None, typer.Option(metavar="N", help="Tasks of such a score. Default: 64.")
    ] = None,
    eval_samples: Annotated[
        int | None, typer.Option(metavar="N", help="Episodes of each such task. Default: 1.")
    ] = None,
    eval_split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split of such tasks. Default: eval.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="Sampling temperature; a task has 1.")
    ] = None,
    algorithm: Annotated[
        str, typer.Option(metavar="NAME", help=f"{_ALGORITHMS}, or one of the stack's own.")
    ] = "grpo",
    steps: Annotated[int | None, typer.Option(metavar="N", help="Number of optimizer steps.")] = None,
    prompts: Annotated[int | None, typer.Option(metavar="N", help="Prompts per step.")] = None,
    group_size: Annotated[
        int | None, typer.Option(metavar="N", help="Answers per prompt, if they are sampled.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Maximum tokens of an answer.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", help="Adam's.")] = None,
    kl: Annotated[
        float | None, typer.Option(metavar="WEIGHT", help="KL penalty to the base, of policy gradients.")
    ] = None,
    beta: Annotated[float | None, typer.Option(metavar="WEIGHT", help="DPO's beta.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of prompts and samples.")] = None,
    staleness: Annotated[
        int | None, typer.Option(metavar="N", help="Steps that sampling may run ahead of training (0 to 8).")
    ] = None,
    dynamic_sampling: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Rounds of further prompts, for those whose answers all had the same reward."
        ),
    ] = None,
    difficulty: Annotated[
        float | None,
        typer.Option(
            metavar="WEIGHT",
            help="Weight of an environment's tasks whose answers last had equal rewards (0.05 to 1).",
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Teacher of algorithm opd: POLICY@REV of the same base, or the base."
        ),
    ] = None,
    gradient: GradientOption = None,
    reset_optimizer: ResetOptimizerOption = False,
    watch: WatchOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a policy on a task or in an environment.

    Options that are not given take the values that the task recommends. Jobs of one policy run one after
    another, each from the policy's latest revision. With --eval-every, the best revision is the result.

    Example: mint job create counter progression --steps 30 --watch
    """
    wishes = {
        "steps": steps,
        "prompts_per_step": prompts,
        "group_size": group_size,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "task": task,
        "env": environment_of(env, env_args, max_turns),
        "evaluation": _evaluation(
            {"every": eval_every, "n": eval_tasks, "samples": eval_samples, "split": eval_split}
        ),
        "learning_rate": learning_rate,
        "kl_coefficient": kl,
        "beta": beta,
        "seed": seed,
        "staleness": staleness,
        "dynamic_sampling": None if dynamic_sampling is None else {"max_extra": dynamic_sampling},
        "difficulty": None if difficulty is None else {"least": difficulty},
        "teacher": teacher,
        "gradient": gradient_of(gradient or ()),
        "optimizer": "reset" if reset_optimizer else None,
    }
    body = {"policy": policy, "algorithm": algorithm}
    made = api.post("/jobs", {**body, **{name: wish for name, wish in wishes.items() if wish is not None}})
    for warning in made["warnings"]:
        typer.echo(f"mint: {warning}", err=True)
    job = read_job(made)
    typer.echo(f"time: {estimated_time(api, job, row_tokens=None)}", err=True)
    _show(api, made, watch=watch, as_json=as_json)


def _evaluation(wishes: Json) -> Json | None:
    """Return how revisions are evaluated; None unless it is asked for."""
    return {name: wish for name, wish in wishes.items() if wish is not None} or None


def estimated_time(api: PublicApi, job: JobNow, *, row_tokens: float | None) -> str:
    """Return the estimated duration of a job that has not begun, from the newest ones that have ended."""
    ended = [read_job(each) for each in api.get("/jobs", {"limit": COMPARED_JOBS})]
    size = step_size(job, row_tokens=row_tokens)
    return time_in_words(job, size, step_time_of(ended, like=job, size=size))


def list_jobs(api: PublicApi, *, limit: LimitOption = 100) -> Listing:
    """List jobs, newest first.

    Each line has the job's progress, its latest mean reward and the best revision that it sampled.

    Example: mint job list --limit 10
    """
    found = api.get("/jobs", {"limit": limit})
    rows = [job_row(job, now=time.time()) for job in found]
    nothing = "no job yet: mint job create POLICY TASK"
    return Listing(answer=found, columns=JOB, rows=rows, nothing=nothing, notes=waiting_notes(found))


def show_job(
    api: PublicApi, job: JobArgument, *, watch: WatchOption = False, as_json: JsonOption = False
) -> None:
    """Show a job and its steps; --watch follows it, also while the gateway restarts.

    The exit code is 1 if a watched job does not succeed, and 3 if the gateway is away for five minutes.

    Example: mint job show job_znqp7ciroqvnfq3s22wrsratcm --watch
    """
    _show(api, api.get(path_of("jobs", job)), watch=watch, as_json=as_json)


def cancel_job(api: PublicApi, job: JobArgument, *, as_json: JsonOption = False) -> None:
    """Cancel a job after its current work. Its published revisions stay.

    Example: mint job cancel job_znqp7ciroqvnfq3s22wrsratcm
    """
    _tell(api.post(path_of("jobs", job, "cancel")), as_json=as_json)


def pause_job(api: PublicApi, job: JobArgument, *, as_json: JsonOption = False) -> None:
    """Pause a job after its current step, until `mint job resume`. Its published revisions stay usable.

    Example: mint job pause job_znqp7ciroqvnfq3s22wrsratcm
    """
    _tell(api.post(path_of("jobs", job, "pause")), as_json=as_json)


def resume_job(
    api: PublicApi, job: JobArgument, *, watch: WatchOption = False, as_json: JsonOption = False
) -> None:
    """Resume a paused job at its next step. The result is the same as without the pause.

    Example: mint job resume job_znqp7ciroqvnfq3s22wrsratcm --watch
    """
    resumed = api.post(path_of("jobs", job, "resume"))
    if watch:
        _watch(api, resumed["job_id"])
    else:
        _tell(resumed, as_json=as_json)


def export_job(
    api: PublicApi,
    job: JobArgument,
    *,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="CSV with a line per step; - prints it.")
    ] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="DIR", help="TensorBoard event file; needs tensorboardX.")
    ] = None,
) -> None:
    """Export the metrics of a job's steps, also while it runs.

    The metrics are loss, rewards, scores and learning rate. Without an option they are printed as CSV.

    Example: mint job export job_znqp7ciroqvnfq3s22wrsratcm --csv curves.csv --tensorboard runs/counter
    """
    found = api.get(path_of("jobs", job))
    if tensorboard is not None:
        count = write_tensorboard(tensorboard.expanduser(), scalars_of(found["steps"]), found["spec"])
        typer.echo(f"{count} numbers in {tensorboard}: tensorboard --logdir {tensorboard}", err=True)
    if csv_file is not None and str(csv_file) != "-":
        csv_file.expanduser().write_text(curves_csv(found["steps"]))
        typer.echo(f"{len(found['steps'])} steps in {csv_file}", err=True)
    elif csv_file is not None or tensorboard is None:
        typer.echo(curves_csv(found["steps"]), nl=False)


def trace_job(
    api: PublicApi,
    job: JobArgument,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File of the trace.")] = Path(
        "trace.json"
    ),
) -> None:
    """Write the times of a job's steps as a trace for https://ui.perfetto.dev or chrome://tracing.

    It shows when each step was sampled, waited for the one before, and was trained.

    Example: mint job trace job_znqp7ciroqvnfq3s22wrsratcm -o trace.json
    """
    found = api.get(path_of("jobs", job))
    out.expanduser().write_text(json.dumps(trace_of(found)))
    typer.echo(f"{len(found['steps'])} steps in {out}: open it at https://ui.perfetto.dev", err=True)


def rollouts_of_job(
    api: PublicApi,
    job: JobArgument,
    *,
    step: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="A sampled step, by default the newest.")
    ] = None,
    prompt: Annotated[int, typer.Option(metavar="N", min=0, help="One of the step's prompts.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show what a step was trained on: the answers or episodes of one of its prompts, with their rewards.

    Example: mint job rollouts job_znqp7ciroqvnfq3s22wrsratcm --step 3
    """
    asked = {"group": prompt} if step is None else {"step": step, "group": prompt}
    found = api.get(path_of("jobs", job, "rollouts"), asked)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(rollout_lines(found)))


def _show(api: PublicApi, answer: Json, *, watch: bool, as_json: bool) -> None:
    if watch:
        _watch(api, answer["job_id"])
        return
    _tell(answer, as_json=as_json)
    if not as_json:
        job = read_job(answer)
        tiers = tiers_of(api.get("/adapters"))
        print_rows(step_rows(job, job.steps, tiers), step_columns(job), nothing="no step yet")
        if rows := staleness_rows(job):
            print_rows(rows, STALENESS, nothing="")
        if line := phase_line(job):
            typer.echo(line)


def _tell(answer: Json, *, as_json: bool) -> None:
    """Print the state of a job."""
    if as_json:
        print_json(answer)
    else:
        job = read_job(answer)
        typer.echo(f"{job.job_id}: {_ending(job)}")


def _watch(api: PublicApi, job_id: str) -> None:
    if watch_job(api, job_id).state != "succeeded":
        raise typer.Exit(1)


def watch_job(api: PublicApi, job_id: str, console: Console | None = None) -> JobNow:
    """Show a job until it ends, then how it ended. Ctrl-C ends the command, not the job.

    Raises WatchLostError.
    """
    console = console or Console()
    view = JobView(console)
    try:
        with view.live():
            job = follow_job(api, job_id, view, view.note)
    except KeyboardInterrupt:
        typer.echo(f"the job goes on: mint job show {job_id} --watch", err=True)
        raise typer.Exit(130) from None
    typer.echo(_ending(job), err=console.stderr)
    return job


def _ending(job: JobNow) -> str:
    reason = job.reason or job.waits_for
    return headline(job, now=time.time()) + (f"\n{reason}" if reason else "")


task_app = group("List or show the tasks that policies can be trained on.", list_tasks, show_task)
job_app = group(
    "Create, watch, list, pause, cancel or export jobs, or read their rollouts.",
    create_job,
    list_jobs,
    show_job,
    pause_job,
    resume_job,
    cancel_job,
    export_job,
    trace_job,
    rollouts_of_job,
)
