"""The internal HTTP routes of the rollout service."""
