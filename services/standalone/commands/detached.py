"""`mint up --detach`: the same command in a session of its own, whose output is shown until it is up."""

import subprocess
import sys
import time
from typing import IO

import typer

from mint_client.core.refusals import LocalFailureError
from services.standalone.adapters.state_folder import StateFolder

POLL_SECONDS = 0.2
LOG = "up"
_DETACH = ("--detach", "-d")
HINT = "Ctrl-C (or `mint down`) stops it."


def up_detached(state: StateFolder) -> None:
    """Start `mint up` with this command's arguments, and return when it says that it is up.

    Its output goes on in ``log/up.log``. Raises LocalFailureError when it ends before; Ctrl-C stops it.
    """
    log = state.logs / f"{LOG}.log"
    arguments = [each for each in sys.argv[1:] if each not in _DETACH]
    with log.open("ab") as file:
        began = file.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "services.standalone", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with log.open(encoding="utf-8", errors="replace") as output:
            output.seek(began)
            _show(output, process)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise


def _show(output: IO[str], process: subprocess.Popen[bytes]) -> None:
    """Print a process's output until its last line at the start."""
    rest = ""
    while True:
        has_ended = process.poll() is not None
        *lines, rest = (rest + output.read()).split("\n")
        for line in lines:
            if line == HINT:
                typer.echo("`mint down` stops it.")
                return
            typer.echo(line)
        if has_ended:
            raise LocalFailureError(what="mint up", problem=f"it ended with exit code {process.returncode}")
        time.sleep(POLL_SECONDS)
