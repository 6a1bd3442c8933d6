"""Which engine answers: where the adapter is nearest, the same one for the same digest, unless it is hot.

Pure: the same options give the same order in every process, so that all gateways agree without talking.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

HOT_LOAD = 16


class Nearness(IntEnum):
    """How close an adapter is to running on an engine; a greater value is closer."""

    ABSENT = 0
    STORED = 1  # on the engine's own disk
    HOST = 2  # in its host memory
    SLOT = 3  # in a slot


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One engine that serves the base; ``load`` counts the requests that are open on it."""

    name: str
    nearness: Nearness = Nearness.ABSENT
    load: int = 0


def order_engines(options: Iterable[Option], key: str, *, hot_load: int = HOT_LOAD) -> Sequence[Option]:
    """Return the engines in the order in which to try them; ``key`` is the digest ("": the bare base).

    The nearest goes first; of equally near ones the one that the digest ranks highest, so that an adapter
    that is nowhere always goes to the same engine. A hot engine goes behind all that are not: it has
    ``hot_load`` requests open, and twice as many as the idlest. The bare base goes to the idlest: it is
    equally near everywhere.
    """
    candidates = list(options)
    idlest = min((option.load for option in candidates), default=0)

    def rank(option: Option) -> tuple[bool, int, int, bytes, int]:
        is_hot = option.load >= hot_load and option.load > 2 * idlest
        first_load = option.load if not key or is_hot else 0
        weight = _weight(option.name, key)
        return is_hot, -option.nearness, first_load, bytes(255 - byte for byte in weight), option.load

    return sorted(candidates, key=rank)


def _weight(name: str, key: str) -> bytes:
    """Rendezvous hashing: each key ranks the engines in its own order, and losing one moves only its own."""
    return hashlib.sha256(f"{name}\n{key}".encode()).digest()
