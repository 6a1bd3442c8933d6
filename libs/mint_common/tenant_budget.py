"""Each tenant's use of a limited resource: requests, sequences, tokens, bytes.

Invariants: a holder has at most ``limit``, and at most ``share`` times what it leaves free of ``total``. With
a share of 3 a single holder has 3/4 of the total, each of two has 3/7; with a share of 1 it is a half and a
third. So a newcomer always finds space. Nothing is stored of a holder that holds nothing.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mint_common.errors import MintError, Overloaded

RETRY_AFTER_SECONDS = 1


class BodiesFull(MintError):
    """No room for {size_bytes} more bytes of request bodies: try again in {retry_after_seconds} s."""

    code = "bodies_full"
    retryable = True
    http_status = 429


@dataclass(slots=True, kw_only=True)
class TenantBudget:
    """Counts what holders have: tenants, or keys of tenants. ``what`` names it in errors.

    A holder of nothing may take any amount while anything is left, as no single request is too large; with
    ``first_fits`` False it may take only what fits.
    """

    what: str = ""
    limit: float = math.inf
    total: float = math.inf
    share: float = 3
    first_fits: bool = True
    retry_after_seconds: float = RETRY_AFTER_SECONDS
    held: int = field(default=0, init=False)
    """Total that all tenants hold together."""
    _of: dict[str, int] = field(default_factory=dict, init=False)

    def of(self, holder: str) -> int:
        """Return a holder's use."""
        return self._of.get(holder, 0)

    @property
    def holders(self) -> frozenset[str]:
        """Return all that hold something."""
        return frozenset(self._of)

    @property
    def largest(self) -> str:
        """Return the holder of most; there is one."""
        return max(self._of, key=self._of.__getitem__)

    def fits(self, holder: str, amount: int = 1) -> bool:
        """Return whether a holder may take an amount more."""
        has, left = self._of.get(holder, 0), self.total - self.held
        if not has and self.first_fits:
            return left > 0
        is_shared = amount <= left if math.isinf(self.share) else has + amount <= self.share * (left - amount)
        return is_shared and has + amount <= self.limit

    def check(self, holder: str, amount: int = 1) -> None:
        """Raise Overloaded unless it fits."""
        if not self.fits(holder, amount):
            depth = self._of.get(holder, 0)
            raise Overloaded(what=self.what, depth=depth, retry_after_seconds=self.retry_after_seconds)

    def take(self, holder: str, amount: int = 1) -> None:
        """Count an amount in, whether it fits or not; a negative one out."""
        has = self._of.get(holder, 0) + amount
        self.held += amount
        if has:
            self._of[holder] = has
        else:
            self._of.pop(holder, None)

    @contextmanager
    def counted(self, holder: str, amount: int = 1) -> Iterator[None]:
        """Hold an amount during the block. Raises Overloaded."""
        self.check(holder, amount)
        self.take(holder, amount)
        try:
            yield
        finally:
            self.take(holder, -amount)
