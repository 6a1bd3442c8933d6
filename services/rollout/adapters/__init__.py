"""Adapters of the rollout service: Postgres, engines, the registry, task packages."""
