"""`mint track`: jobs as runs of an experiment tracker, as they happen."""

import hashlib
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.adapters.stack_folder import pid_in, try_lock
from mint_client.adapters.subscriber import Subscriber, read_backlog
from mint_client.adapters.trackers.opening import open_tracker, place_of
from mint_client.commands.api import api_command
from mint_client.core.refusals import TrackedElsewhereError
from mint_client.core.track_backlog import TrackBacklog, TrackScope
from mint_client.core.tracking import TrackerKind
from mint_common.errors import InvalidField


@api_command
def track(
    api: PublicApi,
    *,
    to: Annotated[TrackerKind, typer.Option(help="The tracker.")],
    at: Annotated[
        str,
        typer.Option(
            metavar="URL|DIR",
            help="MLflow: the URL of its server. Others: the folder for their files. Default: as the "
            "variables of the tracker say, for TensorBoard ./runs.",
        ),
    ] = "",
    project: Annotated[
        str, typer.Option(metavar="NAME", help="The tracker's project; MLflow calls it an experiment.")
    ] = "mint",
    policy: Annotated[str, typer.Option(metavar="POLICY", help="Only this policy.")] = "",
    job: Annotated[
        str, typer.Option(metavar="JOB", help="Only this job; the command ends when it has ended.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Also the jobs that ended before, the newest 1000 of all.")
    ] = False,
    place_file: Annotated[
        Path | None,
        typer.Option(
            "--place", metavar="FILE", help="Store the progress in FILE. Default: one in ~/.local/state/mint."
        ),
    ] = None,
) -> None:
    """Record jobs as runs of an experiment tracker while they train, until Ctrl-C.

    A run has the job's settings, its lineage, a point per step, and scores; MLflow and W&B also get each
    revision as a version of a registered model, with its aliases. Stopped or killed, the command continues
    where it was. A tracker that does not answer delays this command, never a job (docs/guides/trackers.md).

    Example: mint track --to mlflow --at http://127.0.0.1:5000
    """
    if bool(policy) + bool(job) + every > 1:
        raise InvalidField(field="--policy", problem="one of --policy, --job and --all is taken")
    scope = _scope(api, policy, job)
    place = place_of(to, at, os.environ)
    file = place_file or _usual_file(api.url, to, place, project, scope)
    file = file.expanduser().absolute()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f"{file.name}.lock").open("a+") as lock:
        if not try_lock(lock.fileno()):
            lock.seek(0)
            raise TrackedElsewhereError(pid=pid_in(lock.read()), tracker=place, file=str(file))
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        _follow(api, to, place, project, file, scope, since=0.0 if every or job else time.time())


def _follow(  # noqa: PLR0917  # each is needed once
    api: PublicApi, to: TrackerKind, place: str, project: str, file: Path, scope: TrackScope, *, since: float
) -> None:
    backlog = read_backlog(file) or TrackBacklog(since=since)
    tracker = open_tracker(to, place, project, os.environ)
    subscriber = Subscriber(api, tracker, file, scope, backlog=backlog, say=_say)
    _say(f"recording to {to} at {place}, project {project}; progress is in {file}")
    try:
        subscriber.run()
    finally:
        tracker.close()


def _scope(api: PublicApi, policy: str, job: str) -> TrackScope:
    if job:
        found = api.get(path_of("jobs", job))
        return TrackScope(policy_id=found["policy_id"], job_id=found["job_id"])
    return TrackScope(policy_id=api.get(path_of("policies", policy))["policy_id"] if policy else "")


def _usual_file(url: str, to: TrackerKind, place: str, project: str, scope: TrackScope) -> Path:
    told = "\n".join((url, to, place, project, scope.policy_id, scope.job_id))
    name = f"track-{to}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.json"
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "mint" / name


def _say(text: str) -> None:
    typer.echo(f"mint: {text}", err=True)
