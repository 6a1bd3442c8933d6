"""`mint webhook`: send the tenant's events to its own servers."""

from typing import Annotated

import typer

from mint_client.adapters.public_api import PublicApi, path_of
from mint_client.commands.api import Listing, group
from mint_client.commands.options import LimitOption, names_in
from mint_client.core.columns import DELIVERY, WEBHOOK

WebhookArgument = Annotated[
    str, typer.Argument(metavar="WEBHOOK", help="A webhook's id (mint webhook list).")
]
DeliveryArgument = Annotated[
    str, typer.Argument(metavar="DELIVERY", help="A delivery's id (mint webhook log).")
]
TypesOption = Annotated[
    str, typer.Option(metavar="A,B", help="Types of events, docs/reference/events.md. Default: all.")
]


def list_webhooks(api: PublicApi) -> Listing:
    """List the tenant's webhooks.

    Example: mint webhook list
    """
    return Listing(answer=api.get("/webhooks"), columns=WEBHOOK, nothing="no webhook yet")


def create_webhook(
    api: PublicApi,
    url: Annotated[str, typer.Argument(metavar="URL", help="Address to post events to: https, and public.")],
    *,
    events: TypesOption = "",
    description: Annotated[str, typer.Option(metavar="TEXT", help="Description.")] = "",
) -> str:
    """Create a webhook; print its id and the secret that signs its messages. The secret is shown only once.

    Example: mint webhook create https://ci.example.com/mint --events revision.published
    """
    body = {"url": url, "event_types": names_in(events), "description": description}
    made = api.post("/webhooks", body)
    return f"{made['webhook']['webhook_id']} {made['secret']}"


def pause_webhook(api: PublicApi, webhook: WebhookArgument) -> Listing:
    """Pause a webhook: its events wait until it is resumed.

    Example: mint webhook pause wh_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return _set_state(api, webhook, "paused")


def resume_webhook(api: PublicApi, webhook: WebhookArgument) -> Listing:
    """Resume a paused or disabled webhook; waiting events are sent.

    Example: mint webhook resume wh_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return _set_state(api, webhook, "active")


def rotate_webhook(api: PublicApi, webhook: WebhookArgument) -> str:
    """Create and print a new signing secret. For one day messages are signed with both secrets.

    Example: mint webhook rotate wh_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    return str(api.post(path_of("webhooks", webhook, "rotate"))["secret"])


def remove_webhook(api: PublicApi, webhook: WebhookArgument) -> None:
    """Remove a webhook, its waiting events and its log.

    Example: mint webhook remove wh_4p2tvc6rkzcmxlyhy3nb5dw7ea
    """
    api.delete(path_of("webhooks", webhook))


def log_deliveries(
    api: PublicApi,
    webhook: WebhookArgument,
    *,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="waiting, delivered or failed.")] = None,
    limit: LimitOption = 100,
    before: Annotated[
        str | None, typer.Option(metavar="LAST", help="The last one of the previous page.")
    ] = None,
) -> Listing:
    """List deliveries, newest first, with event, number of attempts and outcome.

    Example: mint webhook log wh_4p2tvc6rkzcmxlyhy3nb5dw7ea --state failed
    """
    params = {"state": state, "limit": limit, "before": before}
    found = api.get(path_of("webhooks", webhook, "deliveries"), params)
    return Listing(answer=found, columns=DELIVERY, nothing="nothing sent yet")


def replay_delivery(api: PublicApi, webhook: WebhookArgument, delivery: DeliveryArgument) -> Listing:
    """Deliver an event again, under the same id.

    Example: mint webhook replay wh_4p2tvc6rkzcmxlyhy3nb5dw7ea evt_yu6hqzbu25z7o3qjhqee3as7si
    """
    path = path_of("webhooks", webhook, "deliveries", delivery, "replay")
    return Listing(answer=api.post(path), columns=DELIVERY)


def _set_state(api: PublicApi, webhook: str, state: str) -> Listing:
    return Listing(answer=api.patch(path_of("webhooks", webhook), {"state": state}), columns=WEBHOOK)


webhook_app = group(
    "Send events to your own servers.",
    list_webhooks,
    create_webhook,
    pause_webhook,
    resume_webhook,
    rotate_webhook,
    remove_webhook,
    log_deliveries,
    replay_delivery,
)
