"""Consequences of an engine's error for its requests: retry on another engine, and when."""

import math
from dataclasses import dataclass, replace

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
MAX_REFUSALS, MAX_SILENT = 3, 8
"""Engines that may refuse one request, and that may not answer it: a fleet that is full gets no request
hundreds of times, and one that has lost half of its engines still answers 255 of 256."""


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


@dataclass(frozen=True, slots=True)
class Tries:
    """The engines that one request was tried on: those that refused it, and those that did not answer."""

    refusals: int = 0
    silent: int = 0

    def after(self, error: BaseException) -> "Tries":
        """Return the tries after an engine that passed the request on."""
        if is_away(error):
            return replace(self, silent=self.silent + 1)
        return replace(self, refusals=self.refusals + 1)

    @property
    def are_spent(self) -> bool:
        """Return whether the request is tried on no further engine."""
        return self.refusals >= MAX_REFUSALS or self.silent >= MAX_SILENT
