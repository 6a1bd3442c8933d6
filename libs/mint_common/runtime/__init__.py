"""Runtime of every service: dispatch, ledger, outbox relay, HTTP edge, health, lifecycle, clock."""
