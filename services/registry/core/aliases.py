"""Alias moves: compare-and-set, and a rollback that walks back.

The history of an alias is append-only and at the same time an undo stack, linked through it: every entry
knows the entry ``below`` it. A move pushes on the current entry; a rollback goes to the content of the entry
below and takes over that one's ``below``. So a repeated rollback goes further back and never returns to what
was rolled back, until a new move pushes again.
"""

from dataclasses import dataclass

from mint_common.catalog import PolicyRecord
from mint_common.claims import RevisionRef
from mint_common.errors import InvalidField, PreconditionFailed
from mint_common.events import AliasMoved
from mint_common.ids import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasEntry:
    """A row of an alias's history. ``below`` is the sequence of the entry that a rollback goes to."""

    sequence: int
    previous: Digest | None
    digest: Digest
    number: int
    below: int | None


def plan_move(
    alias: str, current: AliasEntry | None, target: RevisionRef, *, expected: str | None
) -> AliasEntry | None:
    """Return the entry to append, or None when the alias points there already.

    ``expected`` is the digest that it must have now, "" that it must not exist, None whatever.
    Raises PreconditionFailed.
    """
    _check_expected(alias, current, expected)
    if current is not None and current.digest == target.digest:
        return None
    return AliasEntry(
        sequence=current.sequence + 1 if current else 1,
        previous=current.digest if current else None,
        digest=target.digest,
        number=target.number,
        below=current.sequence if current else None,
    )


def plan_rollback(
    alias: str, current: AliasEntry, below: AliasEntry | None, *, expected: str | None
) -> AliasEntry:
    """Return the entry to append; ``below`` is the entry that ``current`` names as such.

    Raises PreconditionFailed, or InvalidField when there is nothing further back.
    """
    _check_expected(alias, current, expected)
    if below is None:
        problem = f"{alias!r} points at revision {current.number} and at nothing before it to roll back to"
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


def moved(
    policy: PolicyRecord, alias: str, entry: AliasEntry, target: RevisionRef, *, actor: str, reason: str
) -> AliasMoved:
    """Return the event that tells of an entry."""
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
