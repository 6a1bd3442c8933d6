"""`mint key`, `mint job`, `mint events`: who may do what, what is trained, what happens."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from mint_common.errors import Unavailable
from services.standalone.adapters.public_api import PublicApi, path_of
from services.standalone.commands.api import Listing, group
from services.standalone.commands.options import AfterOption, LimitOption
from services.standalone.core.tables import JOB, KEY

RETRY_SECONDS = 0.5
"""How soon a lost event stream is opened again."""

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="A key's id (mint key list).")]
KeyNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Signs what the key does.")]
ScopesOption = Annotated[
    str, typer.Option("--scopes", metavar="LIST", help="Some of read,infer,train,admin.")
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


def list_keys(api: PublicApi, *, limit: LimitOption = 1000, after: AfterOption = None) -> Listing:
    """List keys by id, revoked ones too."""
    return Listing(answer=api.get("/keys", {"limit": limit, "after": after}), columns=KEY)


def create_key(api: PublicApi, name: KeyNameArgument, *, scopes: ScopesOption = "read,infer,train") -> str:
    """Make a key and print it, this once."""
    return str(api.post("/keys", {"name": name, "scopes": scopes.split(",")})["key"])


def rotate_key(api: PublicApi, key: KeyArgument) -> str:
    """Replace a key by a new one of the same id and print it, this once."""
    return str(api.post(path_of("keys", key, "rotate"))["key"])


def revoke_key(api: PublicApi, key: KeyArgument) -> str:
    """Let a key open nothing any more."""
    api.delete(path_of("keys", key))
    return f"revoked {key}"


def list_jobs(api: PublicApi) -> Listing:
    """List jobs."""
    return Listing(answer=api.get("/jobs"), columns=JOB, nothing="no job yet")


def show_job(api: PublicApi, job: JobArgument) -> Listing:
    """Show one job."""
    return Listing(answer=api.get(path_of("jobs", job)), columns=JOB)


def cancel_job(api: PublicApi, job: JobArgument) -> Listing:
    """Stop a job after the work in hand."""
    return Listing(answer=api.post(path_of("jobs", job, "cancel")), columns=JOB)


def events(
    api: PublicApi,
    *,
    after: Annotated[
        str | None, typer.Option("--after", metavar="PLACE", help="Begin after this place, not now.")
    ] = None,
    place_file: Annotated[
        Path | None,
        typer.Option("--place", metavar="FILE", help="Keep the place in FILE: the next run goes on there."),
    ] = None,
) -> None:
    """Print the tenant's events as they happen, one JSON envelope a line, until Ctrl-C.

    A lost connection is made again where it broke: no event is missing and none comes twice.
    """
    place = after
    if place is None and place_file is not None and place_file.exists():
        place = place_file.read_text().strip() or None
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
        time.sleep(RETRY_SECONDS)


def _keep(place: str, file: Path) -> None:
    """Replace the file at once: a run that is killed leaves the old place or the new one."""
    written = file.with_name(f"{file.name}.new")
    written.write_text(place)
    written.replace(file)


key_app = group("List, create, rotate or revoke API keys.", list_keys, create_key, rotate_key, revoke_key)
job_app = group("List, show or cancel jobs.", list_jobs, show_job, cancel_job)
