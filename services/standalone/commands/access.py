"""`mint key`, `mint job`, `mint events`: who may do what, what is trained, what happens."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mint_common.errors import Unavailable
from services.standalone.adapters.public_api import path_of
from services.standalone.commands.catalog import AfterOption, JsonOption, LimitOption, group, public_api, show
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption
from services.standalone.core.catalog_tables import JOB, KEY

AGAIN_SECONDS = 0.5
"""How soon a lost event stream is opened again."""

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="A key's id (mint key list).")]
KeyNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Signs what the key does.")]
ScopesOption = Annotated[
    str, typer.Option("--scopes", metavar="LIST", help="Some of read,infer,train,admin.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


def list_keys(
    *,
    limit: LimitOption = 1000,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List keys by id, revoked ones too."""
    with public_api(folder) as api:
        show(api.get("/keys", {"limit": limit, "after": after}), KEY, as_json=as_json)


def create_key(
    name: KeyNameArgument,
    *,
    scopes: ScopesOption = "read,infer,train",
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a key and print it, this once."""
    with public_api(folder) as api:
        typer.echo(api.post("/keys", {"name": name, "scopes": scopes.split(",")})["key"])


def rotate_key(key: KeyArgument, *, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Replace a key by a new one of the same id and print it, this once."""
    with public_api(folder) as api:
        typer.echo(api.post(path_of("keys", key, "rotate"))["key"])


def revoke_key(key: KeyArgument, *, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Let a key open nothing any more."""
    with public_api(folder) as api:
        api.delete(path_of("keys", key))
    typer.echo(f"revoked {key}")


def list_jobs(*, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """List jobs."""
    with public_api(folder) as api:
        show(api.get("/jobs"), JOB, as_json=as_json, nothing="no job yet")


def show_job(job: JobArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Show one job."""
    with public_api(folder) as api:
        show(api.get(path_of("jobs", job)), JOB, as_json=as_json)


def cancel_job(
    job: JobArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER
) -> None:
    """Stop a job after the work in hand."""
    with public_api(folder) as api:
        show(api.post(path_of("jobs", job, "cancel")), JOB, as_json=as_json)


def events(
    *,
    after: Annotated[
        str | None, typer.Option("--after", metavar="PLACE", help="Begin after this place, not now.")
    ] = None,
    place_file: Annotated[
        Path | None,
        typer.Option("--place", metavar="FILE", help="Keep the place in FILE: the next run goes on there."),
    ] = None,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Print the tenant's events as they happen, one JSON envelope a line, until Ctrl-C.

    A lost connection is made again where it broke: no event is missing and none comes twice.
    """
    place = after
    if place is None and place_file is not None and place_file.exists():
        place = place_file.read_text().strip() or None
    with public_api(folder) as api:
        while True:
            is_connected = False
            try:
                for reached, envelope in api.events(after=place):
                    place, is_connected = reached, True
                    if envelope:
                        typer.echo(envelope)
                        sys.stdout.flush()
                    if place_file is not None:
                        _keep(place, place_file)
            except Unavailable as error:
                if place is None and not is_connected:
                    raise
                typer.echo(f"mint: {error}; trying again", err=True)
            time.sleep(AGAIN_SECONDS)


def _keep(place: str, file: Path) -> None:
    """Replace the file at once: a run that is killed leaves the old place or the new one."""
    written = file.with_name(f"{file.name}.new")
    written.write_text(place)
    written.replace(file)


key_app = group("List, create, rotate or revoke API keys.", list_keys, create_key, rotate_key, revoke_key)
job_app = group("List, show or cancel jobs.", list_jobs, show_job, cancel_job)
