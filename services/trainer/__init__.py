"""The trainer: restores a policy over its resident base, steps it on a wave, exports a revision."""
