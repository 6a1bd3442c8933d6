"""`mint alias`, `mint rollback`: where names point."""

from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import Listing, api_command, group
from mint_client.commands.names import digest_of, resolve_revision
from mint_client.commands.options import (
    AfterOption,
    AliasArgument,
    LimitOption,
    PolicyArgument,
    ReasonOption,
)
from mint_client.commands.spelling import MovedRevisionArgument, split_name
from mint_client.core.columns import ALIAS, MOVE

ExpectedOption = Annotated[
    str | None,
    typer.Option(
        "--expected", metavar="REV", help="Revision that the alias must point at now; '' for a new alias."
    ),
]
WaitReadyOption = Annotated[
    bool, typer.Option("--wait-ready", help="Load the revision first; the old one answers until it is ready.")
]


def list_aliases(
    api: PublicApi, policy: PolicyArgument, *, limit: LimitOption = 1000, after: AfterOption = None
) -> Listing:
    """List a policy's aliases by name.

    Example: mint alias list counter
    """
    found = api.get(path_of("policies", policy, "aliases"), {"limit": limit, "after": after})
    return Listing(answer=found, columns=ALIAS, nothing="no alias yet")


def move_alias(
    api: PublicApi,
    revision: MovedRevisionArgument,
    alias: AliasArgument,
    *,
    expected: ExpectedOption = None,
    wait_ready: WaitReadyOption = False,
    reason: ReasonOption = "",
) -> Listing:
    """Point an alias at a revision.

    Example: mint alias move counter@20 prod --reason "best so far"
    """
    policy, target = split_name(revision)
    body = {"revision": resolve_revision(api, policy, target), "reason": reason}
    if wait_ready:
        body["wait_ready"] = True
    if expected is not None:
        body["expected"] = digest_of(api, policy, expected) if expected else ""
    return Listing(answer=api.put(path_of("policies", policy, "aliases", alias), body), columns=ALIAS)


def rm_alias(
    api: PublicApi, policy: PolicyArgument, alias: AliasArgument, *, reason: ReasonOption = ""
) -> str:
    """Remove an alias. Its history stays; refused while a promotion rule moves it.

    Example: mint alias rm counter prdo
    """
    api.delete(path_of("policies", policy, "aliases", alias), {"reason": reason})
    return f"removed {policy}@{alias}"


def history_alias(
    api: PublicApi,
    policy: PolicyArgument,
    alias: AliasArgument,
    *,
    limit: LimitOption = 100,
    before: Annotated[int | None, typer.Option(metavar="MOVE", help="Older moves only.")] = None,
) -> Listing:
    """List an alias's moves, newest first: who, when, why.

    Example: mint alias history counter prod
    """
    path = path_of("policies", policy, "aliases", alias, "history")
    found = api.get(path, {"limit": limit, "before": before})
    rows = [{**row, "number": "removed" if row["removed"] else row["number"]} for row in found]
    return Listing(answer=found, columns=MOVE, rows=rows)


def protect_alias(
    api: PublicApi,
    policy: PolicyArgument,
    alias: AliasArgument,
    *,
    off: Annotated[bool, typer.Option("--off", help="Allow keys with the scope train again.")] = False,
) -> Listing:
    """Allow only admin keys to move or roll back an alias. Rules still move it; `mint alias freeze` stops
    them.

    Example: mint alias protect counter prod
    """
    path = path_of("policies", policy, "aliases", alias, "protect")
    return Listing(answer=api.post(path, {"protected": not off}), columns=ALIAS)


def freeze_alias(api: PublicApi, policy: PolicyArgument, alias: AliasArgument) -> Listing:
    """Stop rules from moving an alias; keys still move it.

    Example: mint alias freeze counter prod
    """
    path = path_of("policies", policy, "aliases", alias, "freeze")
    return Listing(answer=api.post(path, {"frozen": True}), columns=ALIAS)


def unfreeze_alias(api: PublicApi, policy: PolicyArgument, alias: AliasArgument) -> Listing:
    """Allow rules to move an alias again, from the next score on.

    Example: mint alias unfreeze counter prod
    """
    path = path_of("policies", policy, "aliases", alias, "freeze")
    return Listing(answer=api.post(path, {"frozen": False}), columns=ALIAS)


@api_command
def rollback(
    api: PublicApi,
    policy: PolicyArgument,
    *,
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="Name of the alias.")] = "prod",
    reason: ReasonOption = "",
) -> Listing:
    """Roll an alias back to the revision that it pointed at before; repeat to go further back.

    Example: mint rollback counter --reason regression
    """
    path = path_of("policies", policy, "aliases", alias, "rollback")
    return Listing(answer=api.post(path, {"reason": reason}), columns=ALIAS)


alias_app = group(
    "List, move, remove, protect or freeze aliases; show their history.",
    list_aliases,
    move_alias,
    rm_alias,
    history_alias,
    protect_alias,
    freeze_alias,
    unfreeze_alias,
)
