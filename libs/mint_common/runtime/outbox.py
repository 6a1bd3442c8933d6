"""Convert an event to a message: for every outbox, and for services without one."""

from mint_common.bus.port import Message
from mint_common.events.codec import encode
from mint_common.events.event import Event
from mint_common.telemetry.tracing import inject


def event_message(event: Event, *, cause: str, now: float, repeats: int = 0) -> Message:
    """Return the message of an event, under the current trace.

    The message id is the event id, so the bus drops copies; a wanted repetition counts in ``repeats`` and
    has an id of its own, while the envelope stays the same.
    """
    return Message(
        id=message_id(event.id, repeats),
        subject=event.subject,
        data=encode(event, cause=cause, now=now),
        headers=inject({}),
    )


def message_id(event_id: str, repeats: int) -> str:
    """Return the bus's deduplication id of the given repetition."""
    return event_id if repeats == 0 else f"{event_id}.{repeats}"
