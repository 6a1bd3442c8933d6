"""Rows as token ids, asked of the base's trainer in requests of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from mint_common.datasets import Method, OnLong, RenderedRow, RenderRequest, RowLine
from mint_common.ids import BaseName, TenantId
from services.rollout.adapters.peers import Trainers
from services.rollout.core.fault import RowSource
from services.rollout.core.row_bounds import RowBounds
from services.rollout.handlers.engine_requests import EngineRequests

REQUEST_BYTES = 4 << 20
REQUEST_ROWS = 128
"""Maximum rows of one request; a row alone may be larger."""
TRIES = 5
"""Maximum requests in a row in which a trainer runs out of time without having rendered a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Rendered rows in the requested order; ``dropped`` counts those that were too long."""

    rows: list[RenderedRow]
    dropped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRenderer:
    """Renders rows; trainers that are away or full are asked again."""

    trainers: Trainers
    requests: EngineRequests

    async def render(
        self,
        base: BaseName,
        rows: Sequence[RowLine],
        source: RowSource,
        *,
        tenant_id: TenantId,
        method: Method,
        on_long: OnLong,
        max_tokens: int | None = None,
        bounds: RowBounds | None = None,
    ) -> Rendered:
        """Return the rows as tokens; none of more than ``max_tokens``, all within ``bounds``.

        Raises DataRefused for the first row that cannot be rendered, or as soon as there are too many tokens.
        """
        found: list[RenderedRow] = []
        dropped = tokens = 0
        for part in _parts(rows):
            rest, tries = part, 0
            while rest:
                request = RenderRequest(rows=rest, method=method, on_long=on_long, max_tokens=max_tokens)
                ask = partial(self.trainers.render, base, request)
                rendering = await self.requests.retried(tenant_id, ask)
                for problem in rendering.problems:
                    raise source.row_refused(problem.line, problem.code, problem.message)
                found += rendering.rows
                if bounds is not None:
                    tokens += sum(len(each.tokens) for row in rendering.rows for each in row.examples)
                    bounds.check_tokens(tokens)
                dropped += len(rendering.dropped)
                left = len(rendering.left_out)  # the last ones: there was no more time for them
                tries = tries + 1 if left == len(rest) else 0
                if tries == TRIES:
                    why = "the base's chat template takes too long over it"
                    raise source.row_refused(rest[0].line, "not_rendered", why)
                rest = rest[len(rest) - left :]
        return Rendered(rows=found, dropped=dropped)


def _parts(rows: Sequence[RowLine]) -> Iterator[tuple[RowLine, ...]]:
    part: list[RowLine] = []
    size = 0
    for row in rows:
        if part and (size + len(row.data) > REQUEST_BYTES or len(part) == REQUEST_ROWS):
            yield tuple(part)
            part, size = [], 0
        part.append(row)
        size += len(row.data)
    if part:
        yield tuple(part)
