"""What every service runs on: dispatch, ledger, outbox relay, HTTP edge, health, lifecycle, clock."""
