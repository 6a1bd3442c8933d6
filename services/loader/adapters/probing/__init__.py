"""The engine's side of a probe: see `mint_common.probing`."""
