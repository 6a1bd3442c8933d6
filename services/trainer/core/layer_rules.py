"""Rules that a base's layers set: whether rows may share a line, and which positions a layer sees.

Full, sliding and chunked attention take a mask, so that rows behind one prompt do not see each other. A state
that runs along the line (delta nets, Mamba, short convolutions) and an indexer that picks keys of the whole
line take none: their rows have a line each.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mint_common.adapters_format.layer_kinds import INDEXED, MASKED

_PICKING = frozenset({INDEXED, "minimax_m3_sparse", "compressed_sparse_attention"})

MAX_SHARED = 4096
"""Maximum tokens of a line of several rows: its mask grows with the square of its length."""


@dataclass(frozen=True, slots=True)
class Window:
    """The earlier positions that a position sees: the last ``size``, or all of its own chunk of ``size``."""

    size: int
    chunked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRules:
    """Rules that lines and their masks keep to, the same for every pass over a base.

    ``windows`` has the window of each kind of layer, None for one that sees everything; it takes a mask for
    each of them if ``by_kind``, else there is one kind. A line of several rows has at most ``max_shared``
    tokens, 0: a row a line. ``picks_keys``: attention is sparse, and its choices are not replayed.
    """

    windows: Mapping[str, Window | None]
    by_kind: bool = False
    max_shared: int = MAX_SHARED
    picks_keys: bool = False


def plan_rules(
    kinds: Sequence[str],
    *,
    windows: Mapping[str, Window],
    by_kind: bool,
    runs_along: bool,
    indexed_up_to: int | None = None,
) -> LayerRules:
    """Return the rules of a base with layers of these kinds.

    ``runs_along``: something besides attention mixes the tokens of a line. ``indexed_up_to``: longer lines
    are told apart from their rows by where a token is in its line, and not by its position.
    """
    found = set(kinds)
    is_masked = found <= MASKED and not runs_along and (by_kind or len(found) == 1)
    limit = MAX_SHARED if indexed_up_to is None else min(MAX_SHARED, indexed_up_to)
    return LayerRules(
        windows={kind: windows.get(kind) for kind in sorted(found)},
        by_kind=by_kind,
        max_shared=limit if is_masked else 0,
        picks_keys=not found.isdisjoint(_PICKING),
    )
