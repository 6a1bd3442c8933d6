"""The gateway's technologies: Postgres for submitted jobs, internal HTTP for rollout."""
