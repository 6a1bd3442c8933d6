"""`mint policy`, `mint revision`: make, list, upload, retire."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from mint_common.errors import InvalidField
from services.standalone.adapters.public_api import path_of
from services.standalone.commands.catalog import (
    AfterOption,
    JsonOption,
    LimitOption,
    PolicyArgument,
    RevisionArgument,
    group,
    public_api,
    show,
)
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption
from services.standalone.core.catalog_tables import CHANGE, NODE, POLICY, REVISION, diff_rows

LabelOption = Annotated[
    list[str] | None, typer.Option("--label", metavar="LABEL=VALUE", help="A label; repeat it for several.")
]
DescriptionOption = Annotated[
    str | None, typer.Option("--description", metavar="TEXT", help="What it is for.")
]


def list_policies(
    *,
    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="Of this base only.")] = None,
    label: LabelOption = None,
    limit: LimitOption = 100,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List policies by name: all, or those over a base and with labels."""
    wanted = {"base": base, "labels": ",".join(label) if label else None}
    with public_api(folder) as api:
        found = api.get("/policies", {**wanted, "limit": limit, "after": after})
    show(found, POLICY, as_json=as_json, nothing="no policy yet: mint policy create NAME --base BASE")


def show_policy(
    policy: PolicyArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER
) -> None:
    """Show one policy."""
    with public_api(folder) as api:
        show(api.get(path_of("policies", policy)), POLICY, as_json=as_json)


def create_policy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Lower case, digits, dots, dashes.")],
    base: Annotated[str, typer.Option("--base", metavar="BASE", help="The base it is trained over.")],
    *,
    rank: Annotated[int, typer.Option("--rank", min=1, help="The LoRA rank.")] = 16,
    description: DescriptionOption = None,
    label: LabelOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a policy."""
    body = {
        "name": name,
        "base": base,
        "lora": {"rank": rank},
        "description": description or "",
        "labels": _labels(label),
    }
    with public_api(folder) as api:
        show(api.post("/policies", body), POLICY, as_json=as_json)


def change_policy(
    policy: PolicyArgument,
    *,
    description: DescriptionOption = None,
    label: LabelOption = None,
    unlabel: Annotated[
        list[str] | None, typer.Option("--unlabel", metavar="LABEL", help="A label to take away; repeatable.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", metavar="N", min=1, help="Retention: the newest N revisions.")
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option("--keep-days", metavar="N", min=1, help="Retention: those of N days.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="No retention any more.")] = False,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Describe a policy otherwise: what is not named stays."""
    body: dict[str, object] = {}
    if description is not None:
        body["description"] = description
    if label or unlabel:
        body["labels"] = {**_labels(label), **dict.fromkeys(unlabel or ())}
    kept = {"keep_last": keep_last, "keep_days": keep_days}
    if keep_all:
        body["retention"] = None
    elif keep_last or keep_days:
        body["retention"] = {name: number for name, number in kept.items() if number}
    with public_api(folder) as api:
        show(api.patch(path_of("policies", policy), body), POLICY, as_json=as_json)


def _labels(given: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in given or ():
        label, equals, value = text.partition("=")
        if not equals:
            raise InvalidField(field="--label", problem=f"must read LABEL=VALUE, got {text!r}")
        labels[label] = value
    return labels


def list_revisions(
    policy: PolicyArgument,
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List a policy's revisions by number."""
    with public_api(folder) as api:
        found = api.get(path_of("policies", policy, "revisions"), {"limit": limit, "after": after})
    show(found, REVISION, as_json=as_json, nothing="no revision yet")


def show_revision(
    policy: PolicyArgument,
    revision: RevisionArgument,
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Show one revision."""
    with public_api(folder) as api:
        show(api.get(path_of("policies", policy, "revisions", revision)), REVISION, as_json=as_json)


def upload_revision(
    policy: PolicyArgument,
    adapter: Annotated[Path, typer.Argument(metavar="FOLDER", help="An adapter that PEFT or MinT saved.")],
    *,
    step: Annotated[int, typer.Option("--step", min=0, help="Its optimizer step.")] = 0,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="REV", help="The revision that it was trained from.")
    ] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Upload an adapter folder as a revision; the same weights are the same revision."""
    params = {"step": step, "parent": parent}
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with (
        public_api(folder) as api,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task("sending", total=None)

        def tell(sent: int, total: int) -> None:
            word = "sending" if sent < total else "checking"
            progress.update(task, completed=sent, total=total, description=word)

        found = api.upload(path_of("policies", policy, "revisions"), adapter.expanduser(), params, tell)
    show(found, REVISION, as_json=as_json)


def retire_revision(
    policy: PolicyArgument,
    revision: RevisionArgument,
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Take a revision out of use: no name resolves to it. Refused while an alias points at it."""
    with public_api(folder) as api:
        show(
            api.post(path_of("policies", policy, "revisions", revision, "retire")), REVISION, as_json=as_json
        )


def restore_revision(
    policy: PolicyArgument,
    revision: RevisionArgument,
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Put a retired or quarantined revision into use again."""
    with public_api(folder) as api:
        show(
            api.post(path_of("policies", policy, "revisions", revision, "restore")), REVISION, as_json=as_json
        )


def diff_revision(
    policy: PolicyArgument,
    revision: RevisionArgument,
    against: Annotated[
        str | None, typer.Argument(metavar="AGAINST", help="Another revision. Default: its parent.")
    ] = None,
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Compare a revision with another one: config, metrics, scores, and the norm of every module."""
    with public_api(folder) as api:
        found = api.compare(path_of("policies", policy, "revisions", revision, "diff"), {"against": against})
    show(found if as_json else diff_rows(found), CHANGE, as_json=as_json, nothing="no difference")


def lineage_revision(
    policy: PolicyArgument,
    revision: RevisionArgument,
    *,
    ancestors: Annotated[
        int, typer.Option(min=0, max=1000, help="How many trainings to go back.", metavar="N")
    ] = 1000,
    descendants: Annotated[
        int, typer.Option(min=0, max=1000, help="How many trainings to go on.", metavar="N")
    ] = 1,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Show where a revision comes from and what was trained from it."""
    steps = {"ancestors": ancestors, "descendants": descendants}
    with public_api(folder) as api:
        found = api.get(path_of("policies", policy, "revisions", revision, "lineage"), steps)
    show(found if as_json else found["nodes"], NODE, as_json=as_json)


policy_app = group(
    "List, show, create or change policies.", list_policies, show_policy, create_policy, change_policy
)
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
