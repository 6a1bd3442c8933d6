"""Experiment trackers, an adapter each. Their packages are optional, and loaded by the one that is used."""
