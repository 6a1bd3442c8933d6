"""`mint revision`: list, compare, upload, retire."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing, group
from mint_client.commands.names import resolve_revision, revision_path
from mint_client.commands.options import AfterOption, LimitOption, PolicyArgument
from mint_client.commands.pushing import push_revision
from mint_client.commands.spelling import NamedRevisionArgument, split_name
from mint_client.core.columns import CHANGE, FIELD, FOUND, NODE, REVISION
from mint_client.core.score_rows import scored_rows
from mint_client.core.tables import Row, diff_rows, field_rows
from mint_client.views.terminal import receiving, sending


def list_revisions(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 100, after: AfterOption = None
) -> Listing:
    """List a policy's revisions by number, with scores and aliases.

    The reward is the mean over the revision's answers in training; the newest revision has none yet.

    Example: mint revision list counter
    """
    found = api.get(path_of("policies", policy, "revisions"), {"limit": limit, "after": after})
    rows = _scored(api, policy, found)
    return Listing(answer=found, columns=REVISION, rows=rows, nothing="no revision yet")


def show_revision(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Show one revision.

    Example: mint revision show counter@prod
    """
    found = api.get(revision_path(api, revision))
    (row,) = _scored(api, split_name(revision)[0], [found])
    shown = {name: value for name, value in row.items() if name != "manifest"}
    return Listing(answer=found, columns=FIELD, rows=field_rows(shown))


def find_revision(
    api: PublicApi,
    answer: Annotated[
        str, typer.Argument(metavar="ID", help="The id of an answer, its x-mint-revision, or a digest.")
    ],
) -> Listing:
    """Find the revision that gave an answer.

    The first 16 digits of a digest suffice. Policies with equal weights are all listed.

    Example: mint revision find e31a063b96667fae
    """
    return Listing(answer=api.get(path_of("revisions", answer)), columns=FOUND)


def upload_revision(
    api: PublicApi,
    policy: PolicyArgument,
    adapter: Annotated[Path, typer.Argument(metavar="FOLDER", help="Adapter folder of PEFT or MinT.")],
    *,
    step: Annotated[int, typer.Option(min=0, help="Optimizer step of the revision.")] = 0,
    parent: Annotated[
        str | None, typer.Option(metavar="REV", help="The revision that it was trained from.")
    ] = None,
) -> Listing:
    """Upload an adapter folder as a revision. Uploading the same weights again gives the same revision.

    Example: mint revision upload counter ./my-adapter --step 120
    """
    params = {"step": step, "parent": resolve_revision(api, policy, parent) if parent else None}
    console = Console(stderr=True)
    with sending(console) as report:
        found = api.upload(path_of("policies", policy, "revisions"), adapter.expanduser(), params, report)
    for warning in found["warnings"]:
        console.print(f"Note: {warning}")
    return Listing(answer=found, columns=REVISION)


def download_revision(
    api: PublicApi,
    revision: NamedRevisionArgument,
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A new folder. Default: POLICY-REV.")
    ] = None,
    merged: Annotated[
        bool, typer.Option("--merged", help="Download the whole model: base and revision merged.")
    ] = False,
) -> Listing:
    """Download a revision in PEFT's format.

    The folder has adapter_config.json and adapter_model.safetensors. Packed experts stay packed; `mint
    adapter unpack` converts them for PEFT. With --merged the download is a whole model, as large as the base,
    that needs neither PEFT nor MinT; an interrupted download is resumed.

    Example: mint revision download counter@prod --out ./counter
    """
    path = revision_path(api, revision)
    folder = (out or Path(revision.replace("@", "-").replace(":", "-"))).expanduser()
    with receiving(Console(stderr=True)) as report:
        if merged:
            digest = api.download_merged(f"{path}/merged.tar", folder, report)
        else:
            digest = api.download(f"{path}/adapter.tar", folder, report)
    found = {"folder": str(folder), "digest": digest}
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


def retire_revision(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Retire a revision: no name resolves to it any more. Refused while an alias points at it.

    Example: mint revision retire counter@3
    """
    return Listing(answer=api.post(f"{revision_path(api, revision)}/retire"), columns=REVISION)


def restore_revision(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Make a retired or quarantined revision usable again.

    Example: mint revision restore counter@3
    """
    return Listing(answer=api.post(f"{revision_path(api, revision)}/restore"), columns=REVISION)


def resume_revision(api: PublicApi, revision: NamedRevisionArgument) -> Listing:
    """Resume a policy's training from a revision after its training state was lost.

    All training since that revision is discarded, and the optimizer starts new.

    Example: mint revision resume counter@3
    """
    found = api.post(f"{revision_path(api, revision)}/resume")
    return Listing(answer=found, columns=FIELD, rows=field_rows(found))


def diff_revision(
    api: PublicApi,
    revision: NamedRevisionArgument,
    new: Annotated[str | None, typer.Argument(metavar="NEW", help="Later revision to compare with.")] = None,
) -> Listing:
    """Compare two revisions of a policy: scores, training metrics, settings, and norms of modules.

    Without NEW a revision is compared with its parent. The modules that moved most are shown; --json has all.

    Example: mint revision diff counter@prod latest
    """
    policy, old = split_name(revision)
    newer = (new or old).removeprefix(f"{policy}@")
    against = None if new is None else resolve_revision(api, policy, old)
    path = revision_path(api, f"{policy}@{newer}")
    found = api.get(f"{path}/diff", {"against": against}, is_long=True)
    return Listing(answer=found, columns=CHANGE, rows=diff_rows(found), nothing="no difference")


def lineage_revision(
    api: PublicApi,
    revision: NamedRevisionArgument,
    *,
    ancestors: Annotated[
        int, typer.Option(min=0, max=1000, help="Generations of parents.", metavar="N")
    ] = 1000,
    descendants: Annotated[
        int, typer.Option(min=0, max=1000, help="Generations of children.", metavar="N")
    ] = 1,
) -> Listing:
    """Show the ancestors of a revision and what was trained from it.

    Example: mint revision lineage counter@latest
    """
    steps = {"ancestors": ancestors, "descendants": descendants}
    found = api.get(f"{revision_path(api, revision)}/lineage", steps)
    return Listing(answer=found, columns=NODE, rows=found["nodes"])


def _scored(api: PublicApi, policy: str, revisions: Sequence[Json]) -> list[Row]:
    path = path_of("policies", policy)
    scores = list(api.rows(f"{path}/evaluations", by="evaluation_id"))
    return scored_rows(revisions, scores, list(api.rows(f"{path}/aliases", by="alias")))


revision_app = group(
    "List, show, find, compare, upload, download, push, retire or restore revisions, or resume training.",
    list_revisions,
    show_revision,
    find_revision,
    diff_revision,
    lineage_revision,
    upload_revision,
    download_revision,
    push_revision,
    retire_revision,
    restore_revision,
    resume_revision,
)
