"""Answers of the registry, or recent ones while it is away or slow."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mint_common.errors import Unavailable
from mint_common.waiting import cancel_all

T = TypeVar("T")

PATIENCE_SECONDS = 1.0
"""Time that a caller waits for a fresh answer while there is a recent one.

A registry that has lost its database refuses only after 5 s.
"""


async def fresh_or_recent(asking: Coroutine[Any, Any, T], recent: Callable[[], T | None]) -> T:
    """Return an answer, or the recent one if the question takes long or raises Unavailable.

    ``recent`` is called then, and returns None if there is no recent answer: the question is waited for.
    """
    task = asyncio.ensure_future(asking)
    try:
        await asyncio.wait((task,), timeout=PATIENCE_SECONDS)
        if not task.done() and (known := recent()) is not None:
            return known
        return await task
    except Unavailable:
        if (known := recent()) is None:
            raise
        return known
    finally:
        await cancel_all(task)
