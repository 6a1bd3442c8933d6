"""One policy's computations in the scheduler, in order; those after one without an end are void."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mint_common.errors import MintError


class UnderWay:
    """Begun computations whose results have not been collected."""

    def __init__(self) -> None:
        self.is_void = False
        self._begun: deque[tuple[int, asyncio.Future[tuple[object]]]] = deque()
        self._again: list[int] = []
        self._passes: dict[int, asyncio.Future[object]] = {}

    def __bool__(self) -> bool:
        return bool(self._begun)

    @property
    def has_result(self) -> bool:
        """Return whether the next result is there."""
        return bool(self._begun) and self._begun[0][1].done()

    def add(self, seq: int, work: Awaitable[object], *, on_done: Callable[[], None]) -> None:
        """Add work that was queued after the present ones."""
        # Gathered: an error is a result, also a cancellation, and also when the term ends before it is taken.
        begun: asyncio.Future[tuple[object]] = asyncio.gather(work, return_exceptions=True)
        if isinstance(work, asyncio.Future):
            self._passes[seq] = work
        self._begun.append((seq, begun))
        begun.add_done_callback(lambda _: on_done())

    def stop(self, seq: int, error: MintError) -> None:
        """End a computation with an error, unless it is done.

        A long pass ends between two of its runs; if it finishes all the same, its state is dropped.
        """
        work = self._passes.get(seq)
        if work is not None and not work.done():
            work.set_exception(error)

    def take(self, finish: Callable[[int, object], bool]) -> Sequence[int]:
        """Pass the next result to ``finish``, which returns whether that ends the operation.

        Return the operations to begin again, in order, once all void ones are taken.
        """
        seq, begun = self._begun.popleft()
        self._passes.pop(seq, None)
        if self.is_void or not finish(seq, begun.result()[0]):
            self.is_void = True
            self._again.append(seq)
        if self._begun:
            return ()
        again, self._again, self.is_void = self._again, [], False
        return again
