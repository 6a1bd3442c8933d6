"""What the stores in memory share."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from mint_common.adapters_format.base_facts import BaseFacts
from mint_common.catalog import (
    EvaluationRecord,
    PolicyRecord,
    RevisionRecord,
    RuleRecord,
    TenantRecord,
)
from mint_common.claims import RevisionRef
from services.registry.core.aliases import AliasEntry
from services.registry.core.exports import Refusal
from services.registry.core.keys import StoredKey
from services.registry.ports import Mover


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """A folder that no revision names."""

    found_at: float
    is_going: bool = False


@dataclass(slots=True)
class Tables:
    """What the stores below share."""

    tenants: dict[str, TenantRecord] = field(default_factory=dict)
    keys: dict[str, StoredKey] = field(default_factory=dict)
    bases: dict[str, BaseFacts] = field(default_factory=dict)
    policies: dict[str, PolicyRecord] = field(default_factory=dict)
    revisions: dict[str, list[RevisionRecord]] = field(default_factory=dict)
    exports: dict[tuple[str, str, str], RevisionRef | Refusal] = field(default_factory=dict)
    aliases: dict[tuple[str, str], list[tuple[AliasEntry, Mover]]] = field(default_factory=dict)
    evaluations: dict[str, list[EvaluationRecord]] = field(default_factory=dict)
    revoked: dict[str, float] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    protected: set[tuple[str, str]] = field(default_factory=set)
    changes: Counter[tuple[str, int]] = field(default_factory=Counter)
    rules: dict[str, dict[str, RuleRecord]] = field(default_factory=dict)
    retired_at: dict[tuple[str, int], float] = field(default_factory=dict)
    garbage: dict[str, Garbage] = field(default_factory=dict)
    walks: dict[str, str] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
