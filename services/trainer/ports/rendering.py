"""Rows as token ids, by the resident base's tokenizer."""

from typing import Protocol

from mint_common.datasets import Rendering, RenderRequest


class RowRendering(Protocol):
    """Renders rows. Pure: the same rows give the same tokens."""

    async def render(self, request: RenderRequest) -> Rendering:
        """Return what becomes of each row. Raises InvalidField, Overloaded."""
        ...
