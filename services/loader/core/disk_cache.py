"""Eviction from the local disk cache."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mint_common.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """One adapter's files on the local disk. ``touched`` orders uses."""

    digest: Digest
    size_bytes: int
    touched: float


def plan_trim(
    stored: Iterable[StoredAdapter], *, capacity_bytes: int, keep: Collection[Digest]
) -> tuple[Digest, ...]:
    """Return the adapters to evict, least recently used first, so that the rest fits.

    Those in ``keep`` stay even when nothing else is left: the engine may read them again.
    """
    entries = sorted(stored, key=lambda entry: entry.touched)
    used = sum(entry.size_bytes for entry in entries)
    gone: list[Digest] = []
    for entry in entries:
        if used <= capacity_bytes:
            break
        if entry.digest not in keep:
            gone.append(entry.digest)
            used -= entry.size_bytes
    return tuple(gone)
