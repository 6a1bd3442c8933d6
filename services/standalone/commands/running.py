"""`mint down` and `mint status`: a stack that runs in another process."""

import os
import signal
import time

import httpx
import typer
from rich.console import Console
from rich.table import Table

from mint_common.errors import Unavailable
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption, state_folder
from services.standalone.core.refusals import StackNotRunningError

STOP_SECONDS = 90.0


def down(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Stop the stack of a state folder, in order, and wait until the last process has ended."""
    state = state_folder(folder)
    pid = _running(state)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while state.running_pid() is not None:
        if time.monotonic() > deadline:
            problem = (
                f"it did not stop in {STOP_SECONDS:.0f} s. As a last resort: kill -9 {pid} (no orphans stay)"
            )
            raise Unavailable(what=f"mint up (pid {pid})", problem=problem)
        time.sleep(0.05)
    typer.echo(f"stopped (pid {pid})")


def status(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Show the parts of the running stack. Exit code 1 when none runs or a part is not ready."""
    state = state_folder(folder)
    _running(state)
    run = state.read_run()
    if run is None:
        raise StackNotRunningError(folder=str(state.root))
    table = Table(box=None, pad_edge=False)
    for title in ("part", "state", "pid", "port", "restarts"):
        table.add_column(title, min_width=8)
    for name, part in run.parts.items():
        table.add_row(name, part.state, str(part.pid or ""), str(part.port or ""), str(part.restarts))
    console = Console()
    console.print(table)
    answering = _answers(f"{run.gateway_url}/healthz")
    console.print(
        f"\ngateway {run.gateway_url} {'answers' if answering else 'does not answer'}", highlight=False
    )
    console.print(f"supervisor pid {run.pid}, state folder {state.root}", highlight=False, soft_wrap=True)
    if not answering or any(part.state != "ready" for part in run.parts.values()):
        raise typer.Exit(1)


def _running(state: StateFolder) -> int:
    pid = state.running_pid()
    if pid is None:
        raise StackNotRunningError(folder=str(state.root))
    return pid


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
