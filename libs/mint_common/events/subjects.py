"""Names on the bus. A subject is ``mint.<noun>.<verb>.<tenant>.<base>``; all of them live in one stream."""

from mint_common.events.event import Event

STREAM = "MINT"
STREAM_SUBJECTS = "mint.>"


def subjects_of(event_type: type[Event], *, tenant: str = "*", base: str = "*") -> str:
    """Return the subject filter for a type of event, of every tenant and base unless told otherwise."""
    return f"mint.{event_type.type}.{tenant}.{base}"
