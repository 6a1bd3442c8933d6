"""The trainer's side of a probe: see `mint_common.probing`."""
