"""The audit log: who changed what through the public API."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change through the public API. ``place`` orders them; 0 for one that is not stored yet.

    ``object`` is the name or id of what it created; of other changes the path has it.
    """

    at: float
    key_id: str
    actor: str
    method: str
    path: str
    status: int
    object: str = ""
    place: int = 0
