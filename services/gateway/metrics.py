"""What the gateway counts; exported by `/metrics`."""

from prometheus_client import Counter

WEBHOOK_TRIES = Counter("mint_gateway_webhook_tries_total", "Tries to deliver, by outcome.", ["outcome"])
