"""`mint policy`: make, list, show and change policies."""

import re
from collections.abc import Iterator
from typing import Annotated

import typer

from mint_client.adapters.public_api import Json, PublicApi, path_of
from mint_client.commands.api import Listing, group
from mint_client.commands.imports import import_policy
from mint_client.commands.options import AfterOption, LimitOption, PolicyArgument, names_in
from mint_client.core.columns import FIELD, POLICY
from mint_client.core.tables import field_rows
from mint_common.errors import InUse, InvalidField, NotFound

LabelOption = Annotated[list[str] | None, typer.Option(metavar="LABEL=VALUE", help="Label; repeatable.")]
_TINKER_RUN = re.compile(r"ses_[a-z2-7]+\.train\.\d+")
DescriptionOption = Annotated[str | None, typer.Option(metavar="TEXT", help="Description.")]


def list_policies(
    api: PublicApi,
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="Only policies of this base.")] = None,
    label: LabelOption = None,
    trained: Annotated[
        bool, typer.Option("--trained", help="Only policies with a revision, without Tinker's empty runs.")
    ] = False,
    limit: LimitOption = 100,
    after: AfterOption = None,
) -> Listing:
    """List policies by name: all, or those over a base and with labels.

    Example: mint policy list --base smollm2 --label team=search
    """
    wanted = {
        "base": base,
        "labels": ",".join(label) if label else None,
        "has_revision": "true" if trained else None,
    }
    found = api.get("/policies", {**wanted, "limit": limit, "after": after})
    return Listing(answer=found, columns=POLICY, nothing="no policy yet: mint policy create NAME --base BASE")


def show_policy(api: PublicApi, policy: PolicyArgument) -> Listing:
    """Show one policy, with its latest and its best revision.

    The best revision is the one whose samples got the highest reward.

    Example: mint policy show counter
    """
    found = api.get(path_of("policies", policy))
    shown = {**found, "latest": _number(found["latest"]), "best": _number(_best(api, policy))}
    return Listing(answer=found, columns=FIELD, rows=field_rows(shown))


def _best(api: PublicApi, policy: str) -> Json:
    try:
        return api.get(path_of("policies", policy, "revisions", "best"))
    except NotFound:
        return None


def _number(revision: Json) -> int | None:
    return None if revision is None else int(revision["number"])


def create_policy(
    api: PublicApi,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name: lower case, digits, ., - and _.")],
    base: Annotated[str, typer.Option(metavar="BASE", help="The base it is trained over.")],
    *,
    rank: Annotated[int, typer.Option(metavar="N", min=1, help="The LoRA rank.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(metavar="N", help="LoRA alpha: the update is scaled by alpha / rank.")
    ] = None,
    targets: Annotated[
        str, typer.Option(metavar="A,B", help="Modules to train, such as q_proj,v_proj. Default: all.")
    ] = "",
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the first weights.")] = None,
    description: DescriptionOption = None,
    label: LabelOption = None,
) -> Listing:
    """Make a policy.

    Example: mint policy create counter --base smollm2 --rank 16 --alpha 32
    """
    lora = {"alpha": alpha, "targets": names_in(targets) or None, "seed": seed}
    body = {
        "name": name,
        "base": base,
        "lora": {"rank": rank, **{name: value for name, value in lora.items() if value is not None}},
        "description": description or "",
        "labels": _labels(label),
    }
    return Listing(answer=api.post("/policies", body), columns=POLICY)


def change_policy(
    api: PublicApi,
    policy: PolicyArgument,
    *,
    description: DescriptionOption = None,
    label: LabelOption = None,
    unlabel: Annotated[
        list[str] | None, typer.Option(metavar="LABEL", help="Label to remove; repeatable.")
    ] = None,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Retention: keep the newest N revisions.")
    ] = None,
    keep_days: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Retention: revisions of the last N days.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--keep-all", help="No retention: all revisions stay.")] = False,
) -> Listing:
    """Change a policy; options that are not given stay unchanged.

    Example: mint policy change counter --label team=search --keep-last 10
    """
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
    return Listing(answer=api.patch(path_of("policies", policy), body), columns=POLICY)


def rm_policy(
    api: PublicApi,
    policies: Annotated[
        list[str] | None, typer.Argument(metavar="POLICY...", help="Names or ids of policies.")
    ] = None,
    *,
    empty_runs: Annotated[
        bool, typer.Option("--empty-runs", help="All of Tinker's training runs without a revision.")
    ] = False,
) -> None:
    """Remove policies with their revisions. What holds one is named: aliases, rules, jobs, pins, sessions.

    Prompts and answers of its jobs are erased, and its name is free. With --empty-runs what is held is left.

    Example: mint policy rm first-try
    """
    if bool(policies) == empty_runs:
        raise InvalidField(field="POLICY", problem="name policies, or give --empty-runs")
    for name in policies or _empty_runs(api):
        try:
            api.delete(path_of("policies", name))
        except InUse as held:
            if not empty_runs:
                raise
            typer.echo(f"mint: {held}", err=True)
        else:
            typer.echo(f"removed {name}")


def _empty_runs(api: PublicApi) -> Iterator[str]:
    """Return the names of policies that Tinker's clients made and published nothing of."""
    names = (row["name"] for row in api.rows("/policies", {"has_revision": "false"}, by="name"))
    return filter(_TINKER_RUN.fullmatch, names)


def _labels(given: list[str] | None) -> dict[str, str]:
    labels: dict[str, str] = {}
    for text in given or ():
        label, equals, value = text.partition("=")
        if not equals:
            raise InvalidField(field="--label", problem=f"must read LABEL=VALUE, got {text!r}")
        labels[label] = value
    return labels


policy_app = group(
    "List, show, create, import, change or remove policies.",
    list_policies,
    show_policy,
    create_policy,
    import_policy,
    change_policy,
    rm_policy,
)
