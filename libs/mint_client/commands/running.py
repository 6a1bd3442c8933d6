"""`mint down` and `mint status`: a stack that runs in another process."""

import os
import signal
import time

import httpx
import msgspec
import typer

from mint_client.adapters.public_api import PublicApi
from mint_client.adapters.stack_folder import StackFolder
from mint_client.adapters.subscriber import read_backlog
from mint_client.commands.api import local_stack, open_api
from mint_client.commands.options import JsonOption, StackOption
from mint_client.core.columns import ENGINE, PART
from mint_client.core.refusals import LocalFailureError, StackElsewhereError, StackNotRunningError
from mint_client.core.room import is_full, told_full
from mint_client.core.state import TRACKER_PART, RunNow
from mint_client.core.tables import engine_rows
from mint_client.core.track_backlog import TrackBacklog
from mint_client.views.terminal import print_json, print_rows

STOP_SECONDS = 90.0


def down(folder: StackOption = None) -> None:
    """Stop the stack, in order, and wait until the last process has ended.

    Example: mint down
    """
    state = local_stack(folder)
    if state is None:
        raise StackElsewhereError(url=os.environ["MINT_URL"], command="mint down")
    pid = state.running_pid()
    if pid is None:
        raise StackNotRunningError(folder=str(state.root))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while state.running_pid() is not None:
        if time.monotonic() > deadline:
            problem = (
                f"it did not stop in {STOP_SECONDS:.0f} s. As a last resort: kill -9 {pid} (no orphans stay)"
            )
            raise LocalFailureError(what=f"mint up (pid {pid})", problem=problem)
        time.sleep(0.05)
    typer.echo(f"stopped (pid {pid})")


def status(folder: StackOption = None, *, as_json: JsonOption = False) -> None:
    """Show the parts of the running stack. The exit code is 1 if no stack runs or a part is not ready.

    Of a stack on another machine only the engines are shown.

    Example: mint status
    """
    state = local_stack(folder)
    if state is None:
        with open_api(folder) as api:
            _show_remote(api, as_json=as_json)
        return
    run = state.read_run()
    if run is None:
        raise StackNotRunningError(folder=str(state.root))
    _show_parts(run, state, as_json=as_json)


def _show_remote(api: PublicApi, *, as_json: bool) -> None:
    engines, url = api.get("/engines"), api.url
    if as_json:
        print_json({"gateway_url": url, "answers": True, "engines": engines})
        return
    print_rows(engine_rows(engines), ENGINE, nothing="no engine answers")
    typer.echo(f"\ngateway {url} answers")
    if not engines:
        raise typer.Exit(1)


def _show_parts(run: RunNow, state: StackFolder, *, as_json: bool) -> None:
    rows = [{"name": name, **msgspec.to_builtins(part)} for name, part in run.parts.items()]
    answering = _answers(f"{run.gateway_url}/healthz")
    trackers = [name for name in run.parts if name.startswith(TRACKER_PART)]
    if as_json:
        shown = {**msgspec.to_builtins(run), "answers": answering, "folder": str(state.root), "parts": rows}
        print_json(shown)
    else:
        print_rows(rows, PART, nothing="no part")
        typer.echo(f"\ngateway {run.gateway_url} {'answers' if answering else 'does not answer'}")
        for name in trackers:
            _show_problems(name, read_backlog(state.tracking_file(name)))
        if is_full(free := state.free_bytes(), was_full=False):
            typer.echo(told_full(str(state.root), free))
        typer.echo(f"supervisor pid {run.pid}, state folder {state.root}")
    if not answering or any(
        part.state != "ready" for name, part in run.parts.items() if name not in trackers
    ):
        raise typer.Exit(1)


def _show_problems(name: str, backlog: TrackBacklog | None) -> None:
    """Print why a tracker lacks something."""
    if backlog is not None and backlog.problems:
        typer.echo(f"{name}: {len(backlog.waiting)} waiting to be recorded")
        for problem in backlog.problems:
            typer.echo(f"  {problem}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
