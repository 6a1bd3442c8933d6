"""Rows of the registry's tables as records."""

from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
import msgspec

from mint_common.catalog import (
    AliasMove,
    AliasRecord,
    EvaluationRecord,
    KeyRecord,
    PolicyRecord,
    RevisionRecord,
    RuleRecord,
    TenantRecord,
)
from mint_common.claims import Claim, RevisionRef
from mint_common.events import LoraSpec, Retention
from mint_common.ids import BaseName, PolicyId
from services.registry.core.aliases import movers

NEWEST = """
    LEFT JOIN LATERAL (
        SELECT number, digest, manifest_uri, manifest_sha256, manifest_size_bytes FROM revisions
        WHERE revisions.policy_id = policy.policy_id AND state = 'published'
        ORDER BY number DESC LIMIT 1
    ) newest ON true
"""
"""Joins ``policy`` with its newest published revision."""

POLICY = f"SELECT policy.*, newest.* FROM policies policy {NEWEST}"  # noqa: S608  # a constant
"""Policies with their newest published revision."""


def moment(seconds: float) -> datetime:
    """Return seconds since the epoch as a timestamptz value."""
    return datetime.fromtimestamp(seconds, UTC)


def tenant_of(row: asyncpg.Record) -> TenantRecord:
    """Read a row of tenants."""
    return TenantRecord(
        tenant_id=row["tenant_id"], name=row["name"], created_at=row["created_at"].timestamp()
    )


def key_of(row: asyncpg.Record) -> KeyRecord:
    """Read a row of api_keys."""
    return KeyRecord(
        key_id=row["key_id"],
        tenant_id=row["tenant_id"],
        name=row["name"],
        shown=row["shown"],
        scopes=tuple(row["scopes"]),
        created_at=row["created_at"].timestamp(),
        last_used_at=row["last_used_at"].timestamp() if row["last_used_at"] else None,
        revoked_at=row["revoked_at"].timestamp() if row["revoked_at"] else None,
    )


def rule_of(row: asyncpg.Record) -> RuleRecord:
    """Read a row of rules."""
    return RuleRecord(
        rule_id=row["rule_id"],
        alias=row["alias"],
        suite=row["suite"],
        metric=row["metric"],
        at_least=row["at_least"],
        max_drop=row["max_drop"],
        roll_back_below=row["roll_back_below"],
        actor=row["actor"],
        created_at=row["created_at"].timestamp(),
        at_most=row["at_most"],
        max_rise=row["max_rise"],
        roll_back_above=row["roll_back_above"],
        choose=row["choose"],
        cooldown_seconds=row["cooldown_seconds"],
        paused=row["paused"],
    )


def policy_of(row: asyncpg.Record) -> PolicyRecord:
    """Read a row of `POLICY`."""
    return PolicyRecord(
        policy_id=row["policy_id"],
        tenant_id=row["tenant_id"],
        name=row["name"],
        base=row["base"],
        lora=msgspec.convert(row["lora"], LoraSpec),
        created_at=row["created_at"].timestamp(),
        latest=None if row["number"] is None else ref_of(row),
        description=row["description"],
        labels=row["labels"],
        retention=msgspec.convert(row["retention"], Retention),
        changed=row["changed"],
    )


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """See `core.resolve.Named`."""

    policy_id: PolicyId
    name: str
    base: BaseName


def names_of(row: asyncpg.Record) -> NamedPolicy:
    """Read a policy's id and names out of a row."""
    return NamedPolicy(row["policy_id"], row["name"], row["base"])


def ref_of(row: asyncpg.Record) -> RevisionRef:
    """Read the revision in a row that has its number, digest and manifest."""
    return RevisionRef(digest=row["digest"], number=row["number"], manifest=_manifest_of(row))


def revision_of(row: asyncpg.Record) -> RevisionRecord:
    """Read a row of revisions."""
    return RevisionRecord(
        digest=row["digest"],
        number=row["number"],
        manifest=_manifest_of(row),
        parent=row["parent"],
        step=row["step"],
        metrics=row["metrics"],
        state=row["state"],
        job_id=row["job_id"],
        wave_id=row["wave_id"],
        created_at=row["created_at"].timestamp(),
        fault=row["fault"],
        reward=row.get("reward"),
    )


def move_of(row: asyncpg.Record) -> AliasMove:
    """Read a row of alias_history."""
    return AliasMove(
        sequence=row["sequence"],
        previous=row["previous"],
        digest=row["digest"],
        number=row["number"],
        actor=row["actor"],
        reason=row["reason"],
        at=row["moved_at"].timestamp(),
    )


def alias_of(
    row: asyncpg.Record, revision: RevisionRef, history: tuple[AliasMove, ...], *, alias: str, sequence: int
) -> AliasRecord:
    """Return an alias whose row has its flags."""
    return AliasRecord(
        alias=alias,
        revision=revision,
        sequence=sequence,
        history=history,
        protected=row["protected"],
        frozen=row["frozen"],
        moved_by=movers(protected=row["protected"], frozen=row["frozen"]),
    )


def evaluation_of(row: asyncpg.Record) -> EvaluationRecord:
    """Read a row of evaluations joined with the digest of its revision."""
    return EvaluationRecord(
        evaluation_id=row["evaluation_id"],
        digest=row["digest"],
        number=row["number"],
        suite=row["suite"],
        metric=row["metric"],
        value=row["value"],
        n=row["n"],
        stderr=row["stderr"],
        actor=row["actor"],
        created_at=row["created_at"].timestamp(),
    )


def _manifest_of(row: asyncpg.Record) -> Claim:
    return Claim(
        uri=row["manifest_uri"], sha256=row["manifest_sha256"], size_bytes=row["manifest_size_bytes"]
    )
