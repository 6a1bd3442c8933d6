"""MinT on one machine: the supervisor, embedded Postgres and NATS, and the `mint` command."""
