"""Watch the engine: compare its adapters regularly, and end the loader with it."""

import logging

from mint_common.errors import MintError, Unavailable
from mint_common.runtime.clock import Clock
from services.loader.handlers.tiers import Tiers
from services.loader.ports import Engine

_log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.25
RECONCILE_SECONDS = 5.0
"""Interval of the comparison with the engine."""


class EngineWatch:
    """Compares with the engine regularly, and ends one that is silent meanwhile."""

    def __init__(
        self,
        *,
        engine: Engine,
        tiers: Tiers,
        clock: Clock,
        engine_silence_seconds: float,
    ) -> None:
        self._engine = engine
        self._tiers = tiers
        self._clock = clock
        self._engine_silence_seconds = engine_silence_seconds
        self._is_asking = False
        self._unanswered_seconds = 0.0

    async def watch(self) -> None:
        """Raise Unavailable once the engine is dead: the process ends, and a supervisor starts a new one.

        An engine that hangs is killed first, so that no request waits for it while the process ends. Its
        silence is counted in checks, so a time in which this process itself was stopped does not count.
        """
        while not self._engine.dead:
            await self._clock.sleep(_WATCH_SECONDS)
            if self._is_asking:
                self._unanswered_seconds += _WATCH_SECONDS
            if self._unanswered_seconds > self._engine_silence_seconds:
                _log.error("engine hangs", extra={"seconds": self._unanswered_seconds})
                self._engine.kill()
                self._unanswered_seconds = 0.0
        raise Unavailable(what="the engine", problem="its process has ended")

    async def reconcile(self) -> None:
        """Compare with the engine regularly; a comparison that fails is tried again the next time.

        `watch` ends the process when the engine is dead.
        """
        while True:
            await self._clock.sleep(RECONCILE_SECONDS)
            self._is_asking, self._unanswered_seconds = True, 0.0
            try:
                await self._tiers.reconcile()
            except MintError as error:
                _log.warning("engine not compared", extra={"code": error.code, "problem": str(error)})
            self._is_asking, self._unanswered_seconds = False, 0.0
