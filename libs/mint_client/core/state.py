"""A state folder's description of the running stack."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mint_common.errors import InvalidField

T = TypeVar("T")

TRACKER_PART = "track-"
"""Beginning of the names of parts that record jobs at a tracker: the stack is whole without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNow:
    """One part in ``run.json``; ``restarts`` counts how often it was started again."""

    state: str
    pid: int | None
    port: int | None
    restarts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNow:
    """``run.json``: the running supervisor and its parts, rewritten at every change."""

    pid: int
    gateway_url: str
    parts: dict[str, PartNow]


def decode_state(data: bytes, shape: type[T], *, file: str) -> T:
    """Read a file's JSON. Raises InvalidField naming the file."""
    try:
        return msgspec.json.decode(data, type=shape)
    except msgspec.DecodeError as error:
        raise InvalidField(
            field=file, problem=f"cannot be read ({error}); delete it to start afresh"
        ) from error
