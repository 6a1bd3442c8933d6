"""Event handlers and background work of the rollout service."""
