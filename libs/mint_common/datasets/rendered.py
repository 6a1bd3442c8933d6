"""Rows rendered by a trainer as token ids with their trained ranges, in msgpack."""

from dataclasses import dataclass
from typing import Literal

from mint_common.datasets.formats import Method
from mint_common.datasets.report import Problem

Side = Literal["answer", "chosen", "rejected", "prompt"]
"""Part of a row that an example is: its answer, one of its pair, or a prompt that is only sampled from."""
OnLong = Literal["refuse", "drop"]
"""Treatment of a row with an example that is longer than the context. A row is never cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedExample:
    """One sequence. ``trained`` has disjoint, ordered ranges [start, end) of its trained tokens.

    ``text`` is the text of all tokens and ``texts`` that of each, if requested.
    """

    side: Side
    tokens: tuple[int, ...]
    trained: tuple[tuple[int, int], ...]
    text: str = ""
    texts: tuple[str, ...] = ()

    @property
    def trained_count(self) -> int:
        """Return how many tokens are trained."""
        return sum(end - start for start, end in self.trained)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedRow:
    """The examples of a row; ``label`` is a KTO row's."""

    line: int
    examples: tuple[RenderedExample, ...]
    label: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLine:
    """A line of a file, counted from 1, and its bytes."""

    line: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderRequest:
    """Rows to render. ``max_tokens`` is the longest that an example may be; None: the base's context.

    A row with more than ``token_limit`` is refused; after so many tokens in all, the other rows are left out.
    """

    rows: tuple[RowLine, ...]
    method: Method
    on_long: OnLong = "refuse"
    max_tokens: int | None = None
    token_limit: int = 1 << 20
    with_texts: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendering:
    """The result of rendering rows: rendered, refused with a problem, dropped as too long, or left out.

    ``dropped`` and ``left_out`` have the lines of such rows.
    """

    rows: tuple[RenderedRow, ...]
    problems: tuple[Problem, ...]
    dropped: tuple[int, ...]
    left_out: tuple[int, ...]
    max_tokens: int
