"""Parts of pages that many people of a tenant look at: made once and answered to all of them for a moment."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from fastapi import Response

from mint_common.ids import TenantId
from mint_common.runtime.clock import Clock

FRESH_SECONDS = 1.0
"""Time that a part is answered again. Steps of a job take longer as a rule."""
PARTS = 256
"""Maximum number of parts that are held; each has at most `MAX_POINTS` points of a curve."""


class SharedParts:
    """Parts by tenant and name. A part that could not be made is made again for the next request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._made: OrderedDict[tuple[object, ...], tuple[float, asyncio.Task[Response]]] = OrderedDict()

    async def part(
        self, tenant_id: TenantId, name: tuple[object, ...], make: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Return a part that is at most `FRESH_SECONDS` old; requests at the same time wait for one."""
        place, now = (tenant_id, *name), self._clock.monotonic()
        at, making = self._made.get(place, (0.0, None))
        if making is None or now - at > FRESH_SECONDS or (making.done() and _is_useless(making)):
            making = asyncio.ensure_future(make())
            self._made.pop(place, None)
            self._made[place] = (now, making)
            while len(self._made) > PARTS:
                self._made.popitem(last=False)
        found = await asyncio.shield(making)
        return Response(bytes(found.body), found.status_code, headers=dict(found.headers))


def _is_useless(making: "asyncio.Task[Response]") -> bool:
    return making.cancelled() or making.exception() is not None or making.result().status_code != 200
