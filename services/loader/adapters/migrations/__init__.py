"""The schema ``loader``, as numbered SQL files."""
