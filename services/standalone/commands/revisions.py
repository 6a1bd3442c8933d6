"""`mint revision`: list, compare, upload, retire."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from services.standalone.adapters.public_api import PublicApi, path_of
from services.standalone.commands.api import Listing, group
from services.standalone.commands.options import AfterOption, LimitOption, PolicyArgument, RevisionArgument
from services.standalone.core.tables import CHANGE, NODE, REVISION, diff_rows


def list_revisions(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 100, after: AfterOption = None
) -> Listing:
    """List a policy's revisions by number."""
    found = api.get(path_of("policies", policy, "revisions"), {"limit": limit, "after": after})
    return Listing(answer=found, columns=REVISION, nothing="no revision yet")


def show_revision(api: PublicApi, policy: PolicyArgument, revision: RevisionArgument) -> Listing:
    """Show one revision."""
    return Listing(answer=api.get(path_of("policies", policy, "revisions", revision)), columns=REVISION)


def upload_revision(
    api: PublicApi,
    policy: PolicyArgument,
    adapter: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter that PEFT or MinT saved.")],
    *,
    step: Annotated[int, typer.Option("--step", min=0, help="Its optimizer step.")] = 0,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="REV", help="The revision that it was trained from.")
    ] = None,
) -> Listing:
    """Upload an adapter folder as a revision; the same weights are the same revision."""
    params = {"step": step, "parent": parent}
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=None)

        def report(sent: int, total: int) -> None:
            word = "sending" if sent < total else "checking"
            progress.update(task, completed=sent, total=total, description=word)

        found = api.upload(path_of("policies", policy, "revisions"), adapter.expanduser(), params, report)
    return Listing(answer=found, columns=REVISION)


def retire_revision(api: PublicApi, policy: PolicyArgument, revision: RevisionArgument) -> Listing:
    """Take a revision out of use: no name resolves to it. Refused while an alias points at it."""
    path = path_of("policies", policy, "revisions", revision, "retire")
    return Listing(answer=api.post(path), columns=REVISION)


def restore_revision(api: PublicApi, policy: PolicyArgument, revision: RevisionArgument) -> Listing:
    """Put a retired or quarantined revision into use again."""
    path = path_of("policies", policy, "revisions", revision, "restore")
    return Listing(answer=api.post(path), columns=REVISION)


def diff_revision(
    api: PublicApi,
    policy: PolicyArgument,
    revision: RevisionArgument,
    against: Annotated[
        str | None, typer.Argument(metavar="AGAINST", help="Another revision. Default: its parent.")
    ] = None,
) -> Listing:
    """Compare a revision with another one: config, metrics, scores, and the norm of every module."""
    path = path_of("policies", policy, "revisions", revision, "diff")
    found = api.compare(path, {"against": against})
    return Listing(answer=found, columns=CHANGE, rows=diff_rows(found), nothing="no difference")


def lineage_revision(
    api: PublicApi,
    policy: PolicyArgument,
    revision: RevisionArgument,
    *,
    ancestors: Annotated[
        int, typer.Option(min=0, max=1000, help="How many trainings to go back.", metavar="N")
    ] = 1000,
    descendants: Annotated[
        int, typer.Option(min=0, max=1000, help="How many trainings to go on.", metavar="N")
    ] = 1,
) -> Listing:
    """Show where a revision comes from and what was trained from it."""
    steps = {"ancestors": ancestors, "descendants": descendants}
    found = api.get(path_of("policies", policy, "revisions", revision, "lineage"), steps)
    return Listing(answer=found, columns=NODE, rows=found["nodes"])


revision_app = group(
    "List, show, compare, upload, retire or restore revisions.",
    list_revisions,
    show_revision,
    diff_revision,
    lineage_revision,
    upload_revision,
    retire_revision,
    restore_revision,
)
