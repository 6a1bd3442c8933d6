"""Detect and report a full disk of a running stack."""

from mint_client.core.tables import shown_bytes

FULL_BYTES = 64 * 2**20
"""Postgres writes segments of 16 MiB ahead of its rows; below this the next ones of all parts may not fit."""


def is_full(free_bytes: int, *, was_full: bool) -> bool:
    """Say whether a disk is full; one that was full needs twice the room to be it no longer."""
    return free_bytes < FULL_BYTES * (2 if was_full else 1)


def told_full(folder: str, free_bytes: int) -> str:
    """Return the sentence for a disk that is full."""
    return f"disk full: {shown_bytes(free_bytes)} free at {folder}; parts start again once there is room"


def room_again(folder: str, free_bytes: int) -> str:
    """Return the sentence for a disk that is full no longer."""
    return f"disk: {shown_bytes(free_bytes)} free at {folder} again"
