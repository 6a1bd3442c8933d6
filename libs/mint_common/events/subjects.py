"""Names on the bus. A subject is ``mint.<noun>.<verb>.<tenant>.<base>``; all of them live in one stream."""

from mint_common.events.event import Event, subject_token

STREAM = "MINT"
STREAM_SUBJECTS = "mint.>"


def subjects_of(event_type: type[Event], *, tenant: str = "*", base: str = "*") -> str:
    """Return the subject filter for a type of event, of every tenant and base unless told otherwise."""
    return f"mint.{event_type.type}.{_filter(tenant)}.{_filter(base)}"


def _filter(name: str) -> str:
    return name if name == "*" else subject_token(name)
