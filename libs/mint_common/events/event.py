"""The base class of all events."""

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

from mint_common.ids import BaseName, EventId, TenantId, derive_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact about one tenant's work on one base.

    ``type`` and ``version`` name the schema. ``key`` lists the fields that make the fact unique: two events
    of a type with equal keys are the same fact, so the event id is derived from them.
    """

    type: ClassVar[str]
    version: ClassVar[int] = 1
    key: ClassVar[tuple[str, ...]]

    tenant_id: TenantId
    base: BaseName

    @property
    def id(self) -> EventId:
        """Return the id, the same for every copy of this fact."""
        return EventId(derive_id("evt", self.type, *(str(getattr(self, name)) for name in self.key)))

    @property
    def subject(self) -> str:
        """Return ``mint.<noun>.<verb>.<tenant>.<base>``."""
        return f"mint.{self.type}.{subject_token(self.tenant_id)}.{subject_token(self.base)}"


def subject_token(name: str) -> str:
    """Return a name as one token of a subject: dots part tokens, and ``*`` and ``>`` match others'."""
    return quote(name, safe="").replace(".", "%2E")
