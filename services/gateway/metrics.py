"""What the gateway counts; exported by `/metrics`."""

from prometheus_client import Counter

WEBHOOK_TRIES = Counter(
    "mint_gateway_webhook_tries_total",
    "Attempts to deliver an event to a webhook: delivered, failed",
    ["outcome"],
)
