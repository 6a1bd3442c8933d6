"""Decisions of the rollout service as values: no I/O, no clock, no randomness."""
