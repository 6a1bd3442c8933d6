"""Decisions of the loader as values: residency, the cold queue, request checks, the disk cache."""
