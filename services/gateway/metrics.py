"""The gateway's metrics, exported by `/metrics`."""

from prometheus_client import Counter, Histogram

from mint_common.telemetry.series import begin

WEBHOOK_TRIES = Counter(
    "mint_gateway_webhook_tries_total",
    "Attempts to deliver an event to a webhook: delivered, failed",
    ["outcome"],
)
REVISIONS_BEHIND = Histogram(
    "mint_gateway_revisions_behind",
    (
        "Revisions between the former one that answers a request and the new one that its moved name "
        "resolves to: revisions between that and the new one"
    ),
    buckets=(1, 2, 4, 8, 16, 32),
)
begin(WEBHOOK_TRIES, ["delivered", "failed"])
