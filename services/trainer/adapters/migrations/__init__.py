"""Numbered SQL files, run in order by `mint_common.runtime.postgres.migrate`."""
