"""Events of one policy: each is handled by the trainer that holds the policy, whichever took it in."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from mint_common.client.trainer import TrainerClient
from mint_common.errors import AlreadyHandled
from mint_common.events import Event
from mint_common.events.codec import decode, encode
from mint_common.ids import PolicyId
from mint_common.runtime.clock import Clock
from services.trainer.handlers.terms import Terms


class PolicyEvent(Protocol):
    """An event of one policy."""

    @property
    def policy_id(self) -> PolicyId:
        """Return the policy."""
        ...


E = TypeVar("E", bound=Event)
Handled = Callable[[E], Awaitable[Sequence[Event]]]


class PoolEvents:
    """Hands events on to the holders of their policies. Their handlers return no events."""

    def __init__(self, terms: Terms, clock: Clock) -> None:
        self._terms = terms
        self._clock = clock
        self._handlers: dict[str, tuple[Handled[Any], bool]] = {}  # Any: each its own type of event

    def on(self, event_type: type[E], handler: Handled[E], *, opens: bool = False) -> Handled[E]:
        """Return what handles such an event wherever its policy is held; ``opens``: it may open a session."""
        self._handlers[event_type.type] = handler, opens

        async def handle(event: E) -> Sequence[Event]:
            await self._handle(event, is_sent_on=False)
            return ()

        return handle

    async def take_in(self, data: bytes) -> str | None:
        """Handle an event that another trainer sent here; return its cause if it was handled before."""
        _, event = decode(data)
        try:
            await self._handle(event, is_sent_on=True)
        except AlreadyHandled as error:
            return str(error.cause)
        return None

    async def _handle(self, event: Any, *, is_sent_on: bool) -> None:  # Any: one of the handlers' own
        handler, opens = self._handlers[event.type]

        async def here(_: object) -> None:
            await handler(event)

        async def there(client: TrainerClient) -> None:
            await client.take_in(encode(event, cause=event.id, now=self._clock.now()))

        await self._terms.at_holder(event.policy_id, here, there, opens=opens, is_sent_on=is_sent_on)
