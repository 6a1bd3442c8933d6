"""Passes and optimizer steps of several policies at once."""
