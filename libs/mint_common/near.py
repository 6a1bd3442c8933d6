"""Names near to a wrong one, for refusals: cheap for any text, since tenants choose both sides."""

from collections.abc import Iterable

CUTOFF = 60.0
"""Minimum likeness, of 100."""


def near_names(name: str, names: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the names most like one, the most like first, by rapidfuzz's ratio."""
    from rapidfuzz import fuzz, process  # 30 ms to import

    found = process.extract(name, list(names), scorer=fuzz.ratio, limit=limit, score_cutoff=CUTOFF)
    return [near for near, _, _ in found]
