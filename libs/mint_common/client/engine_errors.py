"""Consequences of an engine's error for its requests: retry on another engine, and when."""

import math

from mint_common.adapters_format.refusal import AdapterUnreadable
from mint_common.errors import (
    EngineDied,
    EngineRestarting,
    MintError,
    Overloaded,
    PeerFailed,
    Unavailable,
)
from mint_common.generation import RESTART_SECONDS, EngineInfo

_MIN_WAIT_SECONDS = 2


def lost_engine(may_have_begun: bool) -> MintError:  # noqa: FBT001  # as `Lost`
    """Return the error of a request that an engine lost as it died: once begun, it is never retried."""
    if may_have_begun:
        return EngineDied(retry_after_seconds=RESTART_SECONDS)
    return EngineRestarting(retry_after_seconds=RESTART_SECONDS)


def retry_in_seconds(info: EngineInfo, away_seconds: float) -> int:
    """Return the seconds until an engine that ended ``away_seconds`` ago is asked again.

    Its restart is expected to take as long as its last start; after that the pauses grow.
    """
    left = (info.start_seconds or RESTART_SECONDS) - away_seconds
    return math.ceil(max(_MIN_WAIT_SECONDS, left if left > 0 else away_seconds / 4))


def is_away(error: BaseException | None) -> bool:
    """Return whether an engine does not answer, rather than answers with an error of its own."""
    return isinstance(error, Unavailable) and not isinstance(error, PeerFailed)


def is_for_next(error: BaseException) -> bool:
    """Return whether another engine may answer a request."""
    return is_away(error) or isinstance(error, Overloaded | AdapterUnreadable)
