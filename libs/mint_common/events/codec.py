"""Encode events as JSON envelopes and decode every version that was ever published.

Invariants: a decoded event equals the encoded one, and an event that could not be decoded is not encoded. A
payload that does not fit raises EventInvalid, an unknown type or newer version EventTooNew, and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from mint_common.errors import EventInvalid
from mint_common.events import EVENT_TYPES
from mint_common.events.event import Event
from mint_common.ids import EventId

Payload = dict[str, Any]  # untyped JSON of an older version, only inside an upcaster
Upcaster = Callable[[Payload], Payload]


def _without_stderr(data: Payload) -> Payload:
    return {**data, "stderr": None}


def _with_defaults(data: Payload) -> Payload:
    """Return data from before `JobSpec` had fields with defaults, unchanged."""
    return data


def _without_validation(data: Payload) -> Payload:
    return {**data, "validation": None}


UPCASTERS: Mapping[tuple[str, int], Upcaster] = {
    ("evaluation.recorded", 1): _without_stderr,
    ("job.submitted", 1): _with_defaults,
    ("job.submitted", 2): _with_defaults,
    ("job.submitted", 3): _with_defaults,
    ("wave.requested", 1): _with_defaults,
    ("wave.requested", 2): _with_defaults,
    ("wave.requested", 3): _with_defaults,
    ("wave.completed", 1): _without_validation,
    ("wave.completed", 2): _with_defaults,
    ("wave.completed", 3): _with_defaults,
}
"""(type, version) -> a function that turns that version's data into the next version's."""

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TYPES = {event_type.type: event_type for event_type in EVENT_TYPES}


class EventTooNew(EventInvalid):
    """Event {type!r} cannot be read: {problem}. The sender is of a newer version."""

    code = "event_too_new"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The wire format around an event. ``cause`` is the id of the event or request that led to it."""

    id: EventId
    type: str
    version: int
    cause: str
    time: float
    data: msgspec.Raw


def encode(event: Event, *, cause: str, now: float) -> bytes:
    """Return the JSON envelope of an event; ``now`` is seconds since the epoch. Raises EventInvalid."""
    data = msgspec.json.encode(event)
    _check_readable(event, data)
    envelope = Envelope(
        id=event.id,
        type=event.type,
        version=event.version,
        cause=cause,
        time=now,
        data=msgspec.Raw(data),
    )
    return msgspec.json.encode(envelope)


def decode(data: bytes) -> tuple[Envelope, Event]:
    """Return the envelope and its event, upcast to the current version. Raises EventInvalid."""
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
    except _UNREADABLE as error:
        raise EventInvalid(type="?", problem=str(error)) from error
    event_type = _TYPES.get(envelope.type)
    if event_type is None:
        raise EventTooNew(type=envelope.type, problem="unknown type")
    if envelope.version > event_type.version:
        problem = f"version {envelope.version}, {event_type.version} is known here"
        raise EventTooNew(type=envelope.type, problem=problem)
    return envelope, _decode_data(envelope, event_type)


def _check_readable(event: Event, data: bytes) -> None:
    """Raise EventInvalid for an event that no reader could decode: NaN, for example, has no JSON."""
    try:
        msgspec.json.decode(data, type=type(event))
    except _UNREADABLE as error:
        raise EventInvalid(type=event.type, problem=str(error)) from error


def _decode_data(envelope: Envelope, event_type: type[Event]) -> Event:
    try:
        if envelope.version == event_type.version:
            return msgspec.json.decode(envelope.data, type=event_type)
        payload = msgspec.json.decode(envelope.data, type=Payload)
        for upcaster in _path(envelope, event_type):
            payload = upcaster(payload)
        return msgspec.convert(payload, type=event_type)
    except KeyError as error:
        raise EventInvalid(type=envelope.type, problem=f"field {error} is missing") from error
    except _UNREADABLE as error:
        raise EventInvalid(type=envelope.type, problem=str(error)) from error


def _path(envelope: Envelope, event_type: type[Event]) -> list[Upcaster]:
    versions = range(envelope.version, event_type.version)
    steps = [UPCASTERS.get((envelope.type, version)) for version in versions]
    if not steps or None in steps:
        problem = f"version {envelope.version} has no upcaster to {event_type.version}"
        raise EventInvalid(type=envelope.type, problem=problem)
    return [step for step in steps if step is not None]
