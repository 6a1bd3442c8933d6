"""Versions of the registry's schema: numbered SQL files, applied in order, never changed."""
