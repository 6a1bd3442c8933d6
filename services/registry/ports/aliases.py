"""Aliases and their history."""

from dataclasses import dataclass
from typing import Protocol

from mint_common.catalog import AliasRecord, PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.ids import PolicyId

HISTORY_ROWS = 100
"""Number of moves that an alias's history holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """Author, reason and time of an alias's move."""

    actor: str
    reason: str
    at: float
    is_admin: bool = True
    """Whether protected aliases are moved as well."""
    cause: str | None = None
    """A move is applied once per cause; None: this move has no cause that could repeat."""
    decided_at: float | None = None
    """Time at which a job's move was decided on, in seconds since the epoch; a later move wins over it."""


class Aliases(Protocol):
    """Aliases as rules move them."""

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest `HISTORY_ROWS` rows of its history. Raises NotFound."""
        ...

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_move`, emit `alias.moved`, and return the alias as this move left it.

        Concurrent moves serialise.

        Raises AliasProtected, AlreadyHandled for a repeated cause, and as `core.names.check_servable`; for
        a rule or a job as `core.rules.check_rule_move`, and for a late one as `core.rules.moved_since`.
        """
        ...

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` as `move` does. Raises NotFound for an unknown alias."""
        ...
