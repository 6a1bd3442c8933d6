"""The ledger: inbox and outbox of one service, in the same transaction as its own rows.

Invariants:
- A cause (the id of an event or of a request) is committed at most once. Repeating it repeats the events of
  the first time, so a lost message is repaired by repeating any earlier one.
- The first answer to a repeatable request is committed with its changes.
- Events become visible on the bus only after the rows that they describe are committed.
"""

from contextlib import AbstractAsyncContextManager
from typing import Generic, Protocol, TypeVar

from mint_common.events.event import Event

Connection = TypeVar("Connection")


class Transaction(Protocol[Connection]):
    """An open transaction: the service's own rows through ``connection``, its events through ``emit``."""

    connection: Connection

    async def emit(self, *events: Event) -> None:
        """Add events to the outbox, under the transaction's cause and the current trace context."""
        ...

    async def answer(self, answer: object) -> None:
        """Store a request's answer for its repeats, in the transaction of its changes. Call once."""
        ...


class Ledger(Protocol, Generic[Connection]):
    """Inbox and outbox of one service."""

    async def is_known(self, cause: str) -> bool:
        """Return whether a cause is committed."""
        ...

    def transaction(self, cause: str) -> AbstractAsyncContextManager[Transaction[Connection]]:
        """Open a transaction for a cause; it commits on a clean exit and rolls back on an exception.

        Raises AlreadyHandled, before the body runs, when the cause is committed already (a concurrent holder
        of the same cause is waited for).
        """
        ...

    def request(self, cause: str | None) -> AbstractAsyncContextManager[Transaction[Connection]]:
        """Open the transaction of a request, which stores its answer; None: the request is not repeatable.

        Raises AlreadyHandled before the body runs: then there is a `first_answer`.
        """
        ...

    async def first_answer(self, cause: str) -> bytes | None:
        """Return the stored answer of a request as JSON, for two days; None if there is none."""
        ...

    async def repeat(self, cause: str) -> None:
        """Put the events of a committed cause on the bus once more, past the bus's deduplication."""
        ...
