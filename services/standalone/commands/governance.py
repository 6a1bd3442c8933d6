"""`mint rule`, `mint tenant`, `mint audit`: what moves aliases by itself, who is whose, who did what."""

from typing import Annotated

import typer

from services.standalone.adapters.public_api import path_of
from services.standalone.commands.access import KeyNameArgument, ScopesOption
from services.standalone.commands.catalog import (
    AfterOption,
    JsonOption,
    LimitOption,
    PolicyArgument,
    group,
    public_api,
    show,
)
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption
from services.standalone.core.catalog_tables import AUDIT, RULE, TENANT


def list_rules(
    policy: PolicyArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER
) -> None:
    """List a policy's promotion rules."""
    with public_api(folder) as api:
        show(api.get(path_of("policies", policy, "rules")), RULE, as_json=as_json, nothing="no rule yet")


def create_rule(
    policy: PolicyArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="Whose scores count.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="Which of them.")],
    at_least: Annotated[
        float, typer.Argument(metavar="SCORE", help="A newer revision with it takes the alias over.")
    ],
    *,
    alias: Annotated[str, typer.Option("--alias", metavar="ALIAS", help="Which alias.")] = "prod",
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="How much worse than the live one it may be.")
    ] = None,
    roll_back_below: Annotated[
        float | None,
        typer.Option("--roll-back-below", help="A live revision that scores less is rolled back."),
    ] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Let scores move an alias: forth to a better revision, back from a live one that fails."""
    body = {
        "suite": suite,
        "metric": metric,
        "at_least": at_least,
        "alias": alias,
        "max_drop": max_drop,
        "roll_back_below": roll_back_below,
    }
    with public_api(folder) as api:
        show(api.post(path_of("policies", policy, "rules"), body), RULE, as_json=as_json)


def remove_rule(
    policy: PolicyArgument,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="A rule's id (mint rule list).")],
    *,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Remove a rule; what it has moved stays where it is."""
    with public_api(folder) as api:
        api.delete(path_of("policies", policy, "rules", rule))
    typer.echo(f"{rule} is removed")


def list_tenants(
    *,
    limit: LimitOption = 100,
    after: AfterOption = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List tenants by name."""
    with public_api(folder) as api:
        show(api.get("/tenants", {"limit": limit, "after": after}), TENANT, as_json=as_json)


def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a tenant, or show the one of that name."""
    with public_api(folder) as api:
        show(api.post("/tenants", {"name": name}), TENANT, as_json=as_json)


def key_tenant(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="A tenant's id (mint tenant list).")],
    name: KeyNameArgument,
    *,
    scopes: ScopesOption = "read,infer,train,admin",
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a key of a tenant, its first one say, and print it, this once."""
    body = {"name": name, "scopes": [scope.strip() for scope in scopes.split(",")]}
    with public_api(folder) as api:
        typer.echo(api.post(path_of("tenants", tenant, "keys"), body)["key"])


def audit(
    *,
    limit: LimitOption = 100,
    before: Annotated[
        int | None, typer.Option("--before", metavar="PLACE", min=0, help="What the page before ended with.")
    ] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List the tenant's changes, newest first: who, what, with what outcome. Takes an admin key."""
    with public_api(folder) as api:
        found = api.get("/audit", {"limit": limit, "before": before})
    show(found, AUDIT, as_json=as_json, nothing="nothing was changed yet")


rule_app = group("List, create or remove promotion rules.", list_rules, create_rule, remove_rule)
tenant_app = group(
    "List or create tenants, make their keys. Takes an operator's key.",
    list_tenants,
    create_tenant,
    key_tenant,
)
