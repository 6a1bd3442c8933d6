"""Rendering of rows in one thread: a tokenizer is not safe to share, and the event loop serves others."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mint_common.datasets import Rendering, RenderRequest
from mint_common.errors import InvalidField, Overloaded
from services.trainer.adapters.rendering.timed_template import TimedTemplate
from services.trainer.adapters.rendering.transformers_template import TransformersTemplate, open_template
from services.trainer.core.rendering.rows import render_rows

MAX_WAITING = 32
MAX_BYTES = 16 << 20
"""Of the rows of one request."""
RENDER_SECONDS = 4.0
"""How long the rows of one request are rendered; those that are not done by then are left out."""
ANSWER_SECONDS = 20.0
"""How long a request waits and is rendered: its client waits 30 s."""


class BaseRendering:
    """See `services.trainer.ports.rendering.RowRendering`. The tokenizer is read when it is first needed."""

    def __init__(self, base_dir: Path, *, max_context: int) -> None:
        self._base_dir = base_dir
        self._max_context = max_context
        self._template: TransformersTemplate | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="render")
        self._waiting = 0

    async def render(self, request: RenderRequest) -> Rendering:
        """Return what becomes of each row."""
        if sum(len(row.data) for row in request.rows) > MAX_BYTES:
            raise InvalidField(field="rows", problem=f"have more than {MAX_BYTES} bytes together")
        if self._waiting >= MAX_WAITING:
            raise Overloaded(what="the rendering of rows", depth=self._waiting, retry_after_seconds=1)
        self._waiting += 1
        answer_by = time.monotonic() + ANSWER_SECONDS
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._render, request, answer_by)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _render(self, request: RenderRequest, answer_by: float) -> Rendering:
        self._template = self._template or open_template(self._base_dir)
        deadline = min(answer_by, time.monotonic() + RENDER_SECONDS)
        timed = TimedTemplate(self._template, deadline=deadline)
        return render_rows(timed, request, max_context=self._max_context)
