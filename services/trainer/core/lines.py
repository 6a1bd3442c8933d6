"""One line of a base's input, and its scored tokens. L = tokens read, T = positions scored."""
# ruff: noqa: N815  # tensors carry their shape in their name

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
PROMPT, PADDING = 0, -1
"""Owners of positions that every row of a line sees, and that none does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineTokens:
    """A line as numbers; ``policy`` counts the policies of a score.

    ``where_T`` are the scored positions, with ``targets`` ``[T]`` or ``[T, width]``, None for the
    whole vocabulary of ``width`` tokens. ``owner_L`` numbers the row of a position, and ``position_L``
    is its distance from the prompt's first token; None is plain causal attention. ``routes`` are the recorded
    experts of neighbouring tokens, with their number. Logits are divided by ``temperature``. With
    ``counts_hits`` the score of a target says whether it is the most likely token.
    """

    policy: int
    token_L: Ints
    where_T: Ints
    targets: Ints | None
    width: int = 0
    owner_L: Ints | None = None
    position_L: Ints | None = None
    shares_prompt: bool = False
    routes: Sequence[tuple[bytes, int]] = ()
    temperature: float = 1.0
    counts_hits: bool = False

    @property
    def is_routed(self) -> bool:
        """Return whether routes were recorded."""
        return any(data for data, _ in self.routes)

    def read(self) -> "LineTokens":
        """Return the line itself."""
        return self


class Line(Protocol):
    """Whatever can be read as a line."""

    def read(self) -> LineTokens:
        """Return the line as numbers."""
        ...


def widest(lines: Sequence[LineTokens]) -> int:
    """Return the most targets that a position of the lines has, 0 for one without a dimension of its own."""
    return max(line.width for line in lines)
