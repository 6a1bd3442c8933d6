"""Whether a base without engines is served at all, as the registry knows."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mint_common.errors import Unavailable
from mint_common.ids import BaseName

_REASK_SECONDS = 2.0


class ServedBases:
    """Asks ``check_served``, which raises for a base that no engine will serve; once in two seconds each."""

    def __init__(self, check_served: Callable[[BaseName], Awaitable[None]] | None) -> None:
        self._check_served = check_served
        self._served_at: dict[BaseName, float] = {}

    async def check(self, base: BaseName) -> None:
        """Raise InvalidField for a base that is not served, if the registry answers."""
        now = time.monotonic()
        if self._check_served is None or now - self._served_at.get(base, -_REASK_SECONDS) < _REASK_SECONDS:
            return
        with suppress(Unavailable):
            await self._check_served(base)
        self._served_at[base] = now  # while engines are away, not each of their requests asks
