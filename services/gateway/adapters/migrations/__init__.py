"""Numbered SQL files of the schema ``gateway``, applied in order at start."""
