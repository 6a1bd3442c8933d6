"""The gateway's event handlers: they deliver events to webhooks."""
