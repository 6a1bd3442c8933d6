"""Events about adapters on engines, as entries of a `ResidencyMap`."""

from mint_common.bus.port import Message
from mint_common.client.routing import NEARNESS, Nearness
from mint_common.errors import EventInvalid
from mint_common.events import AdapterEvicted, AdapterFailed, AdapterLoaded
from mint_common.events.codec import decode
from mint_common.events.subjects import subjects_of
from mint_common.ids import Digest, EngineId

NEWS = tuple(subjects_of(event) for event in (AdapterLoaded, AdapterEvicted, AdapterFailed))


def news_of(message: Message) -> tuple[EngineId, str, Digest, Nearness] | None:
    """Return the engine, its epoch, an adapter and how near it is there now; None for other messages."""
    try:
        event = decode(message.data)[1]
    except EventInvalid:
        return None  # of a version that this process does not know
    match event:
        case AdapterLoaded():
            nearness = NEARNESS[event.tier]
        case AdapterEvicted():
            nearness = Nearness.STORED
        case AdapterFailed():
            nearness = Nearness.ABSENT
        case _:
            return None
    return event.engine_id, event.epoch, event.digest, nearness
