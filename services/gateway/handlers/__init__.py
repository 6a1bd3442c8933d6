"""What the gateway does with events: it tells webhooks of them."""
