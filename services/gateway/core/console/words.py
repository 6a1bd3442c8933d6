"""Numbers, times and states as the console's pages write them."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from mint_common.answer_ids import digest_prefix

SAID: Mapping[str, str] = {
    "moved": "The alias points at the revision now.",
    "rolled-back": "The alias was rolled back.",
    "protected": "Only admin keys move the alias now.",
    "unprotected": "Keys with scope train move the alias again.",
    "frozen": "Rules no longer move the alias.",
    "unfrozen": "Rules move the alias again.",
    "removed": "Removed.",
    "changed": "Changed.",
    "cancelled": "The job ends after its current work.",
    "paused": "The job pauses after its current step.",
    "resumed": "The job goes on.",
    "rule-paused": "The rule moves nothing until it is resumed.",
    "rule-resumed": "The rule acts on scores recorded from now on.",
    "retired": "No name resolves to the revision any more.",
    "restored": "Names resolve to the revision again.",
    "pinned": "The revision stays loaded.",
    "unpinned": "The revision may be evicted again.",
    "evicted": "The revision left the engine.",
    "loaded": "The revision is loaded.",
    "replayed": "The delivery is sent again.",
    "revoked": "The key is revoked.",
    "activated": "The webhook is sent events again, and those that waited.",
    "hook-paused": "The webhook's events wait until it is activated.",
}
"""Sentences of changes that were carried out, by the name that a page's address carries."""
NONE = "\N{EN DASH}"
"""Text for a value that is not there."""
_UNLIKELY = (-0.25, -0.75, -1.5, -3.0)
"""Mean log-probabilities, in nats, below which a text is coloured as less likely."""
_DIVERGENT = (0.01, 0.05, 0.2, 0.7)
"""Absolute mean log-ratios, in nats, from which a text is coloured as more divergent: PPO clips at 0.2."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def number(value: Any) -> str:  # Any: of JSON
    """Return a number with at most four significant digits, or a dash for None."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float) or not math.isfinite(value):
        return str(value)
    return f"{value:,.4g}" if abs(value) < 1e6 else f"{value:,.0f}"


def size(value: Any) -> str:  # Any: of JSON
    """Return a number of bytes."""
    if value is None:
        return NONE
    left = float(value)
    for unit in _UNITS[:-1]:
        if abs(left) < 1024:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1024
    return f"{left:.1f} {_UNITS[-1]}"


def span(seconds: Any) -> str:  # Any: of JSON
    """Return a duration in its largest two units."""
    if seconds is None:
        return NONE
    left = float(seconds)
    if left < 1:
        return f"{left * 1000:.0f} ms"
    if left < 60:
        return f"{left:.3g} s"
    parts: list[str] = []
    for length, unit in _SPANS:
        count = int(left // length)
        left -= count * length
        if count or parts:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def moment(seconds: Any) -> str:  # Any: of JSON
    """Return a time in seconds since the epoch as ISO 8601 in UTC."""
    if seconds is None:
        return ""
    return datetime.fromtimestamp(float(seconds), tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def ago(seconds: Any, now: float) -> str:  # Any: of JSON
    """Return how long ago a time is."""
    if seconds is None:
        return NONE
    past = now - float(seconds)
    return f"in {span(-past)}" if past < -1 else "now" if past < 1 else f"{span(past)} ago"


def short(digest: Any) -> str:  # Any: of JSON
    """Return the first digits of a digest, by which it is found."""
    return digest_prefix(str(digest or NONE))


def mean(values: Sequence[float]) -> float | None:
    """Return the mean of numbers, None of none."""
    return sum(values) / len(values) if values else None


def likelihood(logprobs: Sequence[float]) -> str:
    """Return the class of a text's colour, 0 (likely) to 4, by its tokens' mean log-probability in nats."""
    found = mean(logprobs)
    return str(sum(found < bound for bound in _UNLIKELY)) if found is not None else "0"


def divergence(log_ratios: Sequence[float]) -> str:
    """Return the class of a text's colour by its tokens' mean log-ratio in nats.

    "0" is equal; "up-1" to "up-4": the trainer finds the text likelier than the sampler did, "down-1" to
    "down-4": less likely.
    """
    found = mean(log_ratios) or 0.0
    level = sum(abs(found) >= bound for bound in _DIVERGENT)
    return f"{'up' if found > 0 else 'down'}-{level}" if level else "0"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": number,
    "size": size,
    "span": span,
    "moment": moment,
    "short": short,
    "mean": mean,
    "likelihood": likelihood,
}
"""Filters of templates by name."""
