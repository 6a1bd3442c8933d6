"""`mint webhook`: where the tenant's own servers are told of its events."""

from typing import Annotated

import typer

from services.standalone.adapters.public_api import path_of
from services.standalone.commands.catalog import JsonOption, LimitOption, group, public_api, show
from services.standalone.commands.options import DEFAULT_FOLDER, FolderOption
from services.standalone.core.catalog_tables import DELIVERY, WEBHOOK

WebhookArgument = Annotated[
    str, typer.Argument(metavar="WEBHOOK", help="A webhook's id (mint webhook list).")
]
DeliveryArgument = Annotated[
    str, typer.Argument(metavar="DELIVERY", help="A delivery's id (mint webhook log).")
]
TypesOption = Annotated[
    str, typer.Option("--events", metavar="A,B", help="Types of events, docs/events.md. Default: all.")
]


def list_webhooks(*, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """List the tenant's webhooks."""
    with public_api(folder) as api:
        show(api.get("/webhooks"), WEBHOOK, as_json=as_json, nothing="no webhook yet")


def create_webhook(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are posted: https, and public.")],
    *,
    events: TypesOption = "",
    description: Annotated[str, typer.Option("--description", metavar="TEXT", help="What it is for.")] = "",
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Make a webhook and print its id and the secret that its messages are signed with, this once."""
    types = [name.strip() for name in events.split(",") if name.strip()]
    with public_api(folder) as api:
        made = api.post("/webhooks", {"url": url, "event_types": types, "description": description})
    typer.echo(f"{made['webhook']['webhook_id']} {made['secret']}")


def pause_webhook(
    webhook: WebhookArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER
) -> None:
    """Let what happens wait."""
    _set_state(webhook, "paused", as_json=as_json, folder=folder)


def resume_webhook(
    webhook: WebhookArgument, *, as_json: JsonOption = False, folder: FolderOption = DEFAULT_FOLDER
) -> None:
    """Put a paused or disabled webhook to work again; what waits is sent."""
    _set_state(webhook, "active", as_json=as_json, folder=folder)


def rotate_webhook(webhook: WebhookArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Print a new secret; for a day the old one signs too."""
    with public_api(folder) as api:
        typer.echo(api.post(path_of("webhooks", webhook, "rotate"))["secret"])


def remove_webhook(webhook: WebhookArgument, folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Remove a webhook, with what waits for it and its log."""
    with public_api(folder) as api:
        api.delete(path_of("webhooks", webhook))


def log_deliveries(
    webhook: WebhookArgument,
    *,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="waiting, delivered or failed.")
    ] = None,
    limit: LimitOption = 100,
    before: Annotated[
        str | None, typer.Option("--before", metavar="LAST", help="What the page before ended with.")
    ] = None,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """List deliveries, newest first: what was sent, how often, and how it ended."""
    params = {"state": state, "limit": limit, "before": before}
    with public_api(folder) as api:
        found = api.get(path_of("webhooks", webhook, "deliveries"), params)
    show(found, DELIVERY, as_json=as_json, nothing="nothing sent yet")


def replay_delivery(
    webhook: WebhookArgument,
    delivery: DeliveryArgument,
    *,
    as_json: JsonOption = False,
    folder: FolderOption = DEFAULT_FOLDER,
) -> None:
    """Deliver an event once more, under the same id."""
    with public_api(folder) as api:
        show(
            api.post(path_of("webhooks", webhook, "deliveries", delivery, "replay")),
            DELIVERY,
            as_json=as_json,
        )


def _set_state(webhook: str, state: str, *, as_json: bool, folder: FolderOption) -> None:
    with public_api(folder) as api:
        show(api.patch(path_of("webhooks", webhook), {"state": state}), WEBHOOK, as_json=as_json)


webhook_app = group(
    "Tell your own servers of events.",
    list_webhooks,
    create_webhook,
    pause_webhook,
    resume_webhook,
    rotate_webhook,
    remove_webhook,
    log_deliveries,
    replay_delivery,
)
