"""`mint rule`, `mint tenant`, `mint audit`: what moves aliases by itself, who is whose, who did what."""

from typing import Annotated, Literal

import typer

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing, api_command, group
from mint_client.commands.keys import KeyNameArgument, ScopesOption
from mint_client.commands.options import AfterOption, LimitOption, PolicyArgument, names_in
from mint_client.core.columns import AUDIT, RULE, TENANT
from mint_client.core.score_rows import rule_rows
from mint_common.names import MAX_LIMIT

RuleArgument = Annotated[str, typer.Argument(metavar="RULE", help="A rule's id (mint rule list).")]


def list_rules(api: PublicApi, policy: PolicyArgument) -> Listing:
    """List a policy's promotion rules.

    Example: mint rule list counter
    """
    found = api.get(path_of("policies", policy, "rules"))
    return Listing(answer=found, columns=RULE, rows=rule_rows(found), nothing="no rule yet")


def create_rule(
    api: PublicApi,
    policy: PolicyArgument,
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="The suite whose scores count.")],
    metric: Annotated[str, typer.Argument(metavar="METRIC", help="The metric of that suite.")],
    at_least: Annotated[
        float | None, typer.Argument(metavar="SCORE", help="Minimum score of a promotion.")
    ] = None,
    *,
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="Name of the alias.")] = "prod",
    max_drop: Annotated[
        float | None, typer.Option(help="Maximum drop below the live revision's score.")
    ] = None,
    roll_back_below: Annotated[
        float | None, typer.Option(help="Score below which the live revision is rolled back.")
    ] = None,
    at_most: Annotated[float | None, typer.Option(help="Maximum loss, instead of SCORE.")] = None,
    max_rise: Annotated[
        float | None, typer.Option(help="Maximum rise above the live revision's loss, with --at-most.")
    ] = None,
    roll_back_above: Annotated[
        float | None, typer.Option(help="Loss above which the live revision is rolled back, with --at-most.")
    ] = None,
    choose: Annotated[
        Literal["newest", "best"],
        typer.Option(
            help="newest: promote a newer revision that is good enough; best: promote any revision "
            "that scores above the live one."
        ),
    ] = "newest",
    cooldown: Annotated[
        float, typer.Option(metavar="SECONDS", help="Minimum time from a move to the next promotion.")
    ] = 0.0,
) -> Listing:
    """Move an alias by scores.

    The alias moves to a revision that is good enough, and back when the live revision's score fails.

    Larger scores are better; with --at-most the scores are losses, and smaller ones are better. A rule never
    returns to a revision that a person rolled back from, until a person points the alias there again.

    Example: mint rule create counter held-out accuracy 0.8 --roll-back-below 0.5
    """
    body = {
        "suite": suite,
        "metric": metric,
        "at_least": at_least,
        "alias": alias,
        "max_drop": max_drop,
        "roll_back_below": roll_back_below,
        "at_most": at_most,
        "max_rise": max_rise,
        "roll_back_above": roll_back_above,
        "choose": choose,
        "cooldown_seconds": cooldown,
    }
    made = api.post(path_of("policies", policy, "rules"), body)
    for warning in made["warnings"]:
        typer.echo(f"mint: {warning}", err=True)
    return _shown(made)


def _shown(rule: Json) -> Listing:
    return Listing(answer=rule, columns=RULE, rows=rule_rows([rule]))


def pause_rule(api: PublicApi, policy: PolicyArgument, rule: RuleArgument) -> Listing:
    """Stop a rule from moving its alias. Scores recorded while it is paused never move the alias.

    Example: mint rule pause counter rule_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return _shown(api.post(path_of("policies", policy, "rules", rule, "pause")))


def resume_rule(api: PublicApi, policy: PolicyArgument, rule: RuleArgument) -> Listing:
    """Resume a paused rule; it acts on scores recorded from now on.

    Example: mint rule resume counter rule_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return _shown(api.post(path_of("policies", policy, "rules", rule, "resume")))


def remove_rule(api: PublicApi, policy: PolicyArgument, rule: RuleArgument) -> str:
    """Remove a rule; its alias stays where it is.

    Example: mint rule remove counter rule_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    api.delete(path_of("policies", policy, "rules", rule))
    return f"{rule} is removed"


def list_tenants(api: PublicApi, *, limit: LimitOption = 100, after: AfterOption = None) -> Listing:
    """List tenants by name.

    Example: mint tenant list
    """
    return Listing(answer=api.get("/tenants", {"limit": limit, "after": after}), columns=TENANT)


def create_tenant(
    api: PublicApi, name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")]
) -> Listing:
    """Create a tenant, or show the one with that name.

    Example: mint tenant create search-team
    """
    return Listing(answer=api.post("/tenants", {"name": name}), columns=TENANT)


def key_tenant(
    api: PublicApi,
    tenant: Annotated[
        str, typer.Argument(metavar="TENANT", help="A tenant's id or name (mint tenant list).")
    ],
    name: KeyNameArgument,
    *,
    scopes: ScopesOption = "read,infer,train,admin",
) -> str:
    """Create a key for a tenant and print it. It is shown only once.

    Example: mint tenant key search-team admin
    """
    by_name = {row["name"]: row["tenant_id"] for row in api.get("/tenants", {"limit": MAX_LIMIT})}
    body = {"name": name, "scopes": names_in(scopes)}
    return str(api.post(path_of("tenants", by_name.get(tenant, tenant), "keys"), body)["key"])


@api_command
def audit(
    api: PublicApi,
    *,
    limit: LimitOption = 100,
    before: Annotated[
        int | None, typer.Option(metavar="PLACE", min=0, help="The last one of the previous page.")
    ] = None,
) -> Listing:
    """List the changes that the tenant's keys made, newest first, with key and status. Needs an admin key.

    Example: mint audit --limit 20
    """
    found = api.get("/audit", {"limit": limit, "before": before})
    return Listing(answer=found, columns=AUDIT, nothing="nothing was changed yet")


rule_app = group(
    "List, create, pause or remove promotion rules.",
    list_rules,
    create_rule,
    pause_rule,
    resume_rule,
    remove_rule,
)
tenant_app = group(
    "List or create tenants, and create their keys. Needs an operator's key.",
    list_tenants,
    create_tenant,
    key_tenant,
)
