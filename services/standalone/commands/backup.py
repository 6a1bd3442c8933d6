"""`mint backup`, `mint restore`: a stack's database and blobs in a folder, and a stack of them."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from mint_client.commands.options import FolderOption
from mint_client.core.refusals import LocalFailureError, StackNotRunningError
from mint_common.errors import InvalidField
from services.standalone.adapters.backup import back_up
from services.standalone.adapters.backup import restore as restore_backup
from services.standalone.adapters.launch import free_port
from services.standalone.adapters.postgres import postgres_dsn, postgres_launch, prepare_postgres
from services.standalone.adapters.privileges import child_setup
from services.standalone.adapters.readiness import accepts_sessions
from services.standalone.adapters.state_folder import StateFolder
from services.standalone.commands.options import state_folder

START_SECONDS = 60.0
KEY_FILE = "api_key"


def backup(
    target: Annotated[Path, typer.Argument(metavar="FOLDER", help="New folder for the backup.")],
    *,
    folder: FolderOption = None,
) -> None:
    """Copy the running stack's database and blobs to a new folder.

    The stack keeps running; do not run `mint gc --remove` during the backup. If MINT_POSTGRES_DSN or a
    file:// MINT_BLOBS_URL is set, that database or folder is copied; back up a bucket with the tools of its
    store. The backup contains secrets: only its owner can read it, and a file system without permissions is
    refused.

    Example: mint backup ./backup-2026-11-26
    """
    state, place = state_folder(folder), target.expanduser().absolute()
    count = back_up(_dsn(state), _blobs(state), place)
    if state.api_key_file.exists():
        shutil.copy2(state.api_key_file, place / KEY_FILE)
    typer.echo(f"database and {count} blobs in {place}")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="Backup that `mint backup` made.")],
    *,
    folder: FolderOption = None,
) -> None:
    """Restore a backup into a new state folder, or into the database of MINT_POSTGRES_DSN. Start it with
    `mint up`.

    The restored webhooks are paused until `mint webhook resume`.

    Example: mint restore ./backup-2026-11-26 --dir /data/restored
    """
    state = state_folder(folder)
    count = restored(state, source.expanduser().absolute())
    typer.echo(f"database and {count} blobs in {state.root}")


def restored(state: StateFolder, place: Path) -> int:
    """Fill a stack that does not run from the backup in a folder; return how many blobs.

    Raises as `services.standalone.adapters.backup.restore`, and InvalidField for blobs in a bucket.
    """
    with state.taken(), _database(state) as dsn:
        count = restore_backup(place, dsn, _blobs(state))
        if (place / KEY_FILE).exists() and not state.api_key_file.exists():
            shutil.copy2(place / KEY_FILE, state.api_key_file)
    return count


def _dsn(state: StateFolder) -> str:
    given = os.environ.get("MINT_POSTGRES_DSN")
    if given:
        return given
    port = state.read_state().ports.get("postgres") if state.running_pid() is not None else None
    if port is None:
        raise StackNotRunningError(folder=str(state.root))
    return postgres_dsn(state.root / "postgres", port)


def _blobs(state: StateFolder) -> Path:
    url = urlsplit(os.environ.get("MINT_BLOBS_URL", state.blobs.as_uri()))
    if url.scheme != "file":
        raise InvalidField(field="MINT_BLOBS_URL", problem="back up a bucket with its store's own tools")
    return Path(url.path)


@contextlib.contextmanager
def _database(state: StateFolder) -> Iterator[str]:
    """Yield the address of the database, whose server runs that long where it is the stack's own."""
    given = os.environ.get("MINT_POSTGRES_DSN")
    if given:
        yield given
        return
    home = state.root / "postgres"
    prepare_postgres(home)
    launch = postgres_launch(home, free_port())
    with (state.logs / "restore.log").open("ab") as log:
        # One capability must survive the change of user; no thread runs here.
        setup = child_setup(launch.run_as, parent=None)
        server = subprocess.Popen(launch.argv, stdout=log, stderr=log, cwd=home, preexec_fn=setup)  # noqa: PLW1509
    try:
        _await(launch.ready_dsn, server)
        yield launch.ready_dsn
    finally:
        server.send_signal(launch.stop_signal)
        server.wait(START_SECONDS)


def _await(dsn: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not asyncio.run(accepts_sessions(dsn)):
        if server.poll() is not None or time.monotonic() > deadline:
            raise LocalFailureError(what="postgres", problem="it does not start; restore.log says why")
        time.sleep(0.05)
