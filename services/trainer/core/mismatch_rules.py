"""What may become of a token that trainer and sampler see differently: rules by name, and their bounds."""

from typing import Literal

Mismatch = Literal["none", "truncated", "band"]
"""All tokens count, their weights are bounded, or only those inside a band count: see `losses.mismatch`."""

TRUNCATED_AT = 2.0
BAND = (0.5, 5.0)
"""The bounds that the authors of each train with."""
