"""Rules, by name and with their limits, for tokens that trainer and sampler score differently."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Mismatch = Literal["none", "truncated", "band"]
"""All tokens count, their weights are bounded, or only those inside a band count: see `losses.mismatch`."""

TRUNCATED_AT = 2.0
BAND = (0.5, 5.0)
"""The bounds that the authors of each train with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MismatchChoice:
    """How a trainer that computes in ``dtype`` chooses a rule; ``chosen`` is the user's setting.

    ``picks_keys``: attention is sparse, and its indexer's choices are not replayed.
    """

    chosen: Literal["auto", Mismatch]
    dtype: str = "float32"
    picks_keys: bool = False

    def against(self, samplers: Collection[str]) -> Mismatch:
        """Return the rule for a record whose samplers computed in these dtypes; "" is one that is not known.

        Below float32, or where the dtypes differ, trainer and sampler are apart by more than rounding of
        float32: a few tokens by a factor.
        """
        if self.chosen != "auto":
            return self.chosen
        if self.picks_keys:
            return "band"
        known = {self.dtype, *(dtype for dtype in samplers if dtype)}
        return "none" if known == {"float32"} else "truncated"
