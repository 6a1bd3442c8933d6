"""Event types as requests name them."""

from collections.abc import Sequence

from mint_common.errors import InvalidField
from mint_common.events import TENANTS_EVENT_TYPES

EVENT_TYPES = tuple(event_type.type for event_type in TENANTS_EVENT_TYPES)
"""Types of the events that a tenant can read."""


def check_event_types(field: str, names: Sequence[str]) -> None:
    """Check that each name is an event type. Raises InvalidField."""
    unknown = [name for name in names if name not in EVENT_TYPES]
    if unknown:
        problem = f"{unknown[0]!r} is not an event type: they are {', '.join(EVENT_TYPES)}"
        raise InvalidField(field=field, problem=problem)
