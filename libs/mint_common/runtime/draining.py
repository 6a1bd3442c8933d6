"""Open requests of a service, and how they are cut off when the service must end.

Invariant: a client that is cut off gets a 503 before the head of an answer, an event of its API in an open
stream, or else a connection that closes before the end of the answer.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from starlette.types import Scope

from mint_common.errors import MintError, Stopping

StreamError = Callable[[MintError], bytes]
"""Function that renders the error which ends a failed stream, in the format of its API."""

_STREAM_ERROR = "mint.stream_error"


def set_stream_error(scope: Scope, render_error: StreamError) -> None:
    """Set the bytes to send to a request's client when its answer is cut off after the head."""
    scope[_STREAM_ERROR] = render_error


def stream_error_of(scope: Scope) -> StreamError | None:
    """Return the bytes set for this request."""
    return cast("StreamError | None", scope.get(_STREAM_ERROR))


class RequestsInHand:
    """Counts the open requests of an application, and cuts them off."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._resumable: set[asyncio.Task[object]] = set()
        self._cut: set[asyncio.Task[object]] = set()
        self.is_draining = False
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._tasks)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the request of the current task for the length of the block.

        Raises Stopping when cut off, or at once when no further requests are accepted.
        """
        if self._is_closed:
            raise Stopping
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # As in asyncio.timeout: our own cancellation becomes an error, any other is re-raised.
            if task in self._cut and task.uncancel() == 0:
                raise Stopping from None
            raise
        finally:
            for tasks in (self._tasks, self._resumable, self._cut):
                tasks.discard(task)

    def end_when_draining(self) -> None:
        """Let the current task's request end as soon as the service drains: its client can resume it.

        Raises Stopping when the service drains already.
        """
        if self.is_draining:
            raise Stopping
        task = asyncio.current_task()
        assert task in self._tasks, "not within `counted`"
        self._resumable.add(task)

    def drain(self) -> None:
        """End the requests that their clients can resume with Stopping; others may go on."""
        self.is_draining = True
        self._cut_off(self._resumable)

    def close(self) -> None:
        """Refuse further requests with Stopping, before they begin; open ones go on."""
        self._is_closed = True

    def cut_off(self) -> None:
        """End every open request with Stopping."""
        self._cut_off(self._tasks)

    def _cut_off(self, tasks: set[asyncio.Task[object]]) -> None:
        for task in tasks - self._cut:
            self._cut.add(task)
            task.cancel()
