"""`mint alias`, `mint rollback`, `mint eval`: where names point, and scores."""

from typing import Annotated

import typer

from services.standalone.adapters.public_api import path_of
from services.standalone.commands.catalog import (
    AfterOption,
    AliasArgument,
    JsonOption,
    LimitOption,
    PolicyArgument,
    ReasonOption,
    RevisionArgument,
    group,
    number_or_digest,
    public_api,
    show,
)
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption
from services.standalone.core.catalog_tables import ALIAS, EVALUATION, MOVE

ExpectedOption = Annotated[
    str | None,
    typer.Option(
        "--expected", metavar="DIGEST", help="What the alias must point at now; '' for one that is new."
    ),
]
WaitReadyOption = Annotated[
    bool,
    typer.Option("--wait-ready", help="Load the revision first; the old one answers until it is ready."),
]


def list_aliases(
    policy: PolicyArgument,
    *,
    limit: LimitOption = 1000,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List a policy's aliases by name."""
    with public_api(folder) as api:
        found = api.get(path_of("policies", policy, "aliases"), {"limit": limit, "after": after})
    show(found, ALIAS, as_json=as_json, nothing="no alias yet")


def move_alias(
    policy: PolicyArgument,
    alias: AliasArgument,
    revision: RevisionArgument,
    *,
    expected: ExpectedOption = None,
    wait_ready: WaitReadyOption = False,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Point an alias at a revision."""
    body = {"revision": number_or_digest(revision), "reason": reason}
    if wait_ready:
        body["wait_ready"] = True
    if expected is not None:
        body["expected"] = expected
    with public_api(folder) as api:
        show(api.put(path_of("policies", policy, "aliases", alias), body), ALIAS, as_json=as_json)


def history_alias(
    policy: PolicyArgument,
    alias: AliasArgument,
    *,
    limit: LimitOption = 100,
    before: Annotated[int | None, typer.Option("--before", metavar="MOVE", help="Older moves only.")] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List an alias's moves, newest first: who, when, why."""
    params = {"limit": limit, "before": before}
    with public_api(folder) as api:
        show(api.get(path_of("policies", policy, "aliases", alias, "history"), params), MOVE, as_json=as_json)


def protect_alias(
    policy: PolicyArgument,
    alias: AliasArgument,
    *,
    off: Annotated[bool, typer.Option("--off", help="Let everybody move it again.")] = False,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Let only admin keys and rules move an alias."""
    path = path_of("policies", policy, "aliases", alias, "protect")
    with public_api(folder) as api:
        show(api.post(path, {"protected": not off}), ALIAS, as_json=as_json)


def rollback(
    policy: PolicyArgument,
    *,
    alias: Annotated[str, typer.Option("--alias", metavar="ALIAS", help="Which alias.")] = "prod",
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Point an alias (prod) at what it pointed at before; repeated, it goes further back."""
    path = path_of("policies", policy, "aliases", alias, "rollback")
    with public_api(folder) as api:
        show(api.post(path, {"reason": reason}), ALIAS, as_json=as_json)


def list_evaluations(
    policy: PolicyArgument,
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List the scores of a policy's revisions, oldest first."""
    with public_api(folder) as api:
        found = api.get(path_of("policies", policy, "evaluations"), {"limit": limit, "after": after})
    show(found, EVALUATION, as_json=as_json, nothing="no score yet")


def record_evaluation(
    policy: PolicyArgument,
    revision: RevisionArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="What it was scored on.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="What was measured.")],
    value: Annotated[float, typer.Argument(metavar="VALUE", help="The score.")],
    *,
    n: Annotated[int, typer.Option("--n", min=1, help="Over how many items.")] = 1,
    stderr: Annotated[float | None, typer.Option("--stderr", help="The score's standard error.")] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Record a score of a revision; rules act upon it."""
    scored = {"revision": number_or_digest(revision), "value": value, "n": n, "stderr": stderr}
    body = {**scored, "suite": suite, "metric": metric}
    with public_api(folder) as api:
        show(api.post(path_of("policies", policy, "evaluations"), body), EVALUATION, as_json=as_json)


alias_app = group(
    "List, move or protect aliases; show their history.",
    list_aliases,
    move_alias,
    history_alias,
    protect_alias,
)
eval_app = group("List or record scores.", list_evaluations, record_evaluation)
