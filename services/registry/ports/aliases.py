"""Aliases and their history."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mint_common.catalog import AliasMove, AliasRecord, PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.ids import PolicyId
from services.registry.ports.accounts import PAGE

HISTORY_ROWS = 100
"""How many moves an alias's record holds; `Aliases.history` pages through all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mover:
    """Who moves an alias, why and when."""

    actor: str
    reason: str
    at: float
    is_admin: bool = True
    """Whether protected aliases are moved as well."""
    cause: str | None = None
    """A move is applied once per cause; None: this move has no cause that could repeat."""
    decided_at: float | None = None
    """When a job's move was decided on, in seconds since the epoch; it gives way to what came later."""


class Aliases(Protocol):
    """Aliases and their history."""

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest `HISTORY_ROWS` rows of its history. Raises NotFound."""
        ...

    async def aliases(
        self, policy_id: PolicyId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[AliasRecord]:
        """Return a policy's aliases by name, without histories."""
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

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return an alias's moves, newest first, with a sequence below ``before``. Raises NotFound."""
        ...

    async def set_flags(
        self, policy_id: PolicyId, name: str, *, protected: bool | None = None, frozen: bool | None = None
    ) -> AliasRecord:
        """Set what may move an alias, and return it; None leaves a flag. Idempotent. Raises NotFound.

        A ``protected`` alias is moved by admins and rules only. Once this has returned, no rule moves a
        ``frozen`` one.
        """
        ...

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` as `move` does. Raises NotFound for an unknown alias."""
        ...
