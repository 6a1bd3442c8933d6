"""The requests that a service has in hand, and how those are cut off that are still open when it must end.

Invariant: whoever is cut off is told: by 503 before the head of an answer, by an event of its API in an open
stream, and by a connection that closes before the end of an answer that has no other way to say it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from starlette.types import Scope

from mint_common.errors import MintError, Stopping

LastWord = Callable[[MintError], bytes]
"""What ends a stream that has failed, in the words of its API."""

_LAST_WORD = "mint.last_word"


def set_last_word(scope: Scope, last_word: LastWord) -> None:
    """Say what is sent to a request's client when its answer is cut off after the head."""
    scope[_LAST_WORD] = last_word


def last_word_of(scope: Scope) -> LastWord | None:
    """Return what was set for this request."""
    return cast("LastWord | None", scope.get(_LAST_WORD))


class RequestsInHand:
    """Counts the requests of an application, and cuts them off when told to."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()
        self._is_cut = False

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._tasks)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the request of the current task for the length of the block. Raises Stopping when cut off."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # As in asyncio.timeout: our own cancellation becomes an error, any other is re-raised.
            if self._is_cut and task.uncancel() == 0:
                raise Stopping from None
            raise
        finally:
            self._tasks.discard(task)

    def cut_off(self) -> None:
        """End every open request with Stopping."""
        self._is_cut = True
        for task in self._tasks:
            task.cancel()
