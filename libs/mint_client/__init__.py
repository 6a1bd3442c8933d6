"""The thin client of MinT: the commands for a running stack, and their Python client."""
