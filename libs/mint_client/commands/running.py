"""`mint down` and `mint status`: a stack that runs in another process."""

import os
import signal
import time

import httpx
import msgspec
import typer

from mint_client.adapters.public_api import PublicApi
from mint_client.adapters.stack_folder import StackFolder
from mint_client.commands.api import address_of
from mint_client.commands.options import FolderOption, StackOption, stack_folder
from mint_client.core.columns import ENGINE, PART
from mint_client.core.refusals import LocalFailureError, StackNotRunningError
from mint_client.core.room import is_full, told_full
from mint_client.core.state import RunNow
from mint_client.core.tables import engine_rows
from mint_client.views.terminal import print_rows

STOP_SECONDS = 90.0


def down(folder: FolderOption = None) -> None:
    """Stop the stack of a state folder, in order, and wait until the last process has ended.

    Example: mint down
    """
    state = stack_folder(folder)
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


def status(folder: StackOption = None) -> None:
    """Show the parts of the running stack. The exit code is 1 if no stack runs or a part is not ready.

    For a stack at MINT_URL only the engines are shown: its parts run on another machine.

    Example: mint status
    """
    address = None if folder else address_of(os.environ)
    if address is not None:
        _show_remote(*address)
        return
    state = stack_folder(folder)
    run = state.read_run()
    if run is None:
        raise StackNotRunningError(folder=str(state.root))
    _show_parts(run, state)


def _show_remote(url: str, key: str) -> None:
    with PublicApi(url, key) as api:
        engines = api.get("/engines")
    print_rows(engine_rows(engines), ENGINE, nothing="no engine answers")
    typer.echo(f"\ngateway {url} answers")
    if not engines:
        raise typer.Exit(1)


def _show_parts(run: RunNow, state: StackFolder) -> None:
    rows = [{"name": name, **msgspec.to_builtins(part)} for name, part in run.parts.items()]
    print_rows(rows, PART, nothing="no part")
    answering = _answers(f"{run.gateway_url}/healthz")
    typer.echo(f"\ngateway {run.gateway_url} {'answers' if answering else 'does not answer'}")
    if is_full(free := state.free_bytes(), was_full=False):
        typer.echo(told_full(str(state.root), free))
    typer.echo(f"supervisor pid {run.pid}, state folder {state.root}")
    if not answering or any(part.state != "ready" for part in run.parts.values()):
        raise typer.Exit(1)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
