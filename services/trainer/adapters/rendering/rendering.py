"""Rendering of rows in one thread: a tokenizer is not safe to share, and the event loop serves others."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mint_common.datasets import Rendering, RenderRequest
from mint_common.errors import InvalidField, Overloaded
from services.trainer.adapters.rendering.transformers_template import TransformersTemplate, open_template
from services.trainer.core.rendering.rows import render_rows

MAX_WAITING = 32
MAX_BYTES = 16 << 20
"""Maximum bytes of the rows of one request."""
RENDER_SECONDS = 4.0
"""Time limit to render the rows of one request; rows that are not rendered by then are left out."""
WAIT_SECONDS = 16.0
"""Time that a request waits for its turn: its client waits 30 s for the answer."""


class BaseRendering:
    """Renders rows as token ids: the same row gives the same tokens.

    The tokenizer is read when it is first needed.
    """

    def __init__(self, base_dir: Path, *, max_context: int) -> None:
        self._base_dir = base_dir
        self._max_context = max_context
        self._template: TransformersTemplate | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._waiting = 0

    async def render(self, request: RenderRequest) -> Rendering:
        """Return each row's rendering. Raises InvalidField, Overloaded."""
        if sum(len(row.data) for row in request.rows) > MAX_BYTES:
            raise InvalidField(field="rows", problem=f"have more than {MAX_BYTES} bytes together")
        if self._waiting >= MAX_WAITING:
            raise self._overloaded()
        self._waiting += 1
        begin_by = time.monotonic() + WAIT_SECONDS
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._render, request, begin_by)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _render(self, request: RenderRequest, begin_by: float) -> Rendering:
        if time.monotonic() > begin_by:
            raise self._overloaded()  # without a row looked at, an answer would tell nothing of the rows
        self._template = self._template or open_template(self._base_dir)
        self._template.deadline = time.monotonic() + RENDER_SECONDS
        return render_rows(self._template, request, max_context=self._max_context)

    def _overloaded(self) -> Overloaded:
        return Overloaded(what="the rendering of rows", depth=self._waiting, retry_after_seconds=1)
