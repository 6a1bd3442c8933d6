"""The rollout service's ports on real parts: Postgres, engines, the registry, task packages."""
