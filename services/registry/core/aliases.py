"""Alias moves: compare-and-set, and rollback.

The history of an alias is append-only. It also holds an undo stack as a linked list: each entry has the
sequence of the entry ``below`` it. A move pushes onto the current entry. A rollback appends an entry with the
revision of the entry below and with that entry's ``below``, so a repeated rollback goes further back and
never returns to a revision that was rolled back. A removal appends an entry too, and ends the undo stack.
"""

from dataclasses import dataclass, replace
from typing import Literal

from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.events import AliasMoved, AliasRemoved
from mint_common.ids import Digest


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """A row of an alias's history. ``below`` is the sequence of the entry that a rollback returns to.

    ``removed``: the alias was removed, and pointed at ``digest`` until then.
    """

    sequence: int
    previous: Digest | None
    digest: Digest
    number: int
    below: int | None
    removed: bool = False


def plan_move(
    alias: str, current: AliasEntry | None, target: RevisionRef, *, expected: str | None
) -> AliasEntry | None:
    """Return the entry to append, or None when the alias already points there.

    ``current`` is None, or a removal, for an alias that is not there. ``expected`` is the digest that the
    alias must point at, "" if it must not exist, None for no condition. Raises PreconditionFailed.
    """
    live = None if current is None or current.removed else current
    _check_expected(alias, live, expected)
    if live is not None and live.digest == target.digest:
        return None
    return AliasEntry(
        sequence=current.sequence + 1 if current else 1,
        previous=live.digest if live else None,
        digest=target.digest,
        number=target.number,
        below=live.sequence if live else None,
    )


def plan_removal(current: AliasEntry) -> AliasEntry:
    """Return the entry that removes an alias."""
    return replace(current, sequence=current.sequence + 1, previous=current.digest, below=None, removed=True)


def plan_rollback(
    alias: str, current: AliasEntry, below: AliasEntry | None, *, expected: str | None
) -> AliasEntry:
    """Return the entry to append; ``below`` is the entry that ``current.below`` names.

    Raises PreconditionFailed, or InvalidField when the undo stack is empty.
    """
    _check_expected(alias, current, expected)
    if below is None:
        problem = f"{alias!r} points at revision {current.number} and has no earlier revision to roll back to"
        raise InvalidField(field="alias", problem=problem)
    return AliasEntry(
        sequence=current.sequence + 1,
        previous=current.digest,
        digest=below.digest,
        number=below.number,
        below=below.below,
    )


def _check_expected(alias: str, current: AliasEntry | None, expected: str | None) -> None:
    found = current.digest if current else ""
    if expected is not None and expected != found:
        raise PreconditionFailed(what=f"alias {alias!r}", found=found, expected=expected)


def movers(*, protected: bool, frozen: bool) -> tuple[Literal["train", "admin", "rule"], ...]:
    """Return what moves an alias: keys by their scope, and rules."""
    keys: tuple[Literal["train", "admin"], ...] = ("admin",) if protected else ("train", "admin")
    return keys if frozen else (*keys, "rule")


def moved(
    policy: PolicyRecord, alias: str, entry: AliasEntry, target: RevisionRef, *, actor: str, reason: str
) -> AliasMoved:
    """Return the event of an entry."""
    return AliasMoved(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        alias=alias,
        sequence=entry.sequence,
        previous=entry.previous,
        revision=target,
        actor=actor,
        reason=reason,
    )


def removed(policy: PolicyRecord, alias: str, entry: AliasEntry, *, actor: str, reason: str) -> AliasRemoved:
    """Return the event of a removal."""
    return AliasRemoved(
        tenant_id=policy.tenant_id,
        base=policy.base,
        policy_id=policy.policy_id,
        alias=alias,
        sequence=entry.sequence,
        digest=entry.digest,
        actor=actor,
        reason=reason,
    )
