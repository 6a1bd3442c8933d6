"""Requests: who asks for which of how many names, and when."""

import bisect
import itertools
import random
from collections.abc import Iterator

from mint_common.ids import Digest, TenantId
from tests.sim.fleet.model import Request


def name_digest(number: int) -> Digest:
    """Return the digest of a name."""
    return Digest(f"sha256:{number:064x}")


class Zipf:
    """Names 0..n-1, the k-th as likely as 1 / (k + 1) ** s; s = 0 is uniform."""

    def __init__(self, names: int, s: float, rng: random.Random) -> None:
        self._names = names
        self._rng = rng
        self._sums = None if s == 0 else list(itertools.accumulate((k + 1) ** -s for k in range(names)))

    def draw(self) -> int:
        """Draw a name."""
        if self._sums is None:
            return self._rng.randrange(self._names)
        return bisect.bisect(self._sums, self._rng.random() * self._sums[-1])


def poisson(
    names: Zipf,
    rng: random.Random,
    *,
    per_second: float,
    seconds: float,
    tokens: int = 64,
    tenants: int = 20,
    start: float = 0.0,
) -> Iterator[Request]:
    """Yield requests of an open loop; a name always belongs to the same tenant."""
    at = start + rng.expovariate(per_second)
    while at < start + seconds:
        number = names.draw()
        yield Request(
            tenant_id=TenantId(f"tenant-{number % tenants}"),
            digest=name_digest(number),
            tokens=tokens,
            at=at,
        )
        at += rng.expovariate(per_second)
