"""Aliases, evaluations and rules in memory."""

from collections.abc import Sequence
from dataclasses import replace

from mint_common.catalog import (
    AliasMove,
    AliasRecord,
    EvaluationRecord,
    PolicyRecord,
    RuleRecord,
)
from mint_common.claims import RevisionRef
from mint_common.errors import AliasProtected, NotFound
from mint_common.ids import EvaluationId, PolicyId, new_id
from mint_common.testing.ledger_memory import MemoryLedger
from services.registry.adapters.memory_tables import Tables
from services.registry.core.aliases import AliasEntry, moved, plan_move, plan_rollback
from services.registry.core.evaluations import recorded, said_anew
from services.registry.core.resolve import check_servable
from services.registry.core.rules import MOST_RULES, too_many_rules
from services.registry.ports import HISTORY_ROWS, PAGE, Mover


class MemoryAliases:
    """See `ports.Aliases`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def alias(self, policy_id: PolicyId, name: str) -> AliasRecord:
        """Return an alias with the newest rows of its history."""
        rows = self._tables.aliases.get((policy_id, name))
        if not rows:
            raise NotFound(kind="alias", name=name)
        entry = rows[-1][0]
        history = tuple(_move_of(*row) for row in rows[-HISTORY_ROWS:])
        revision = self._ref(policy_id, entry.number)
        return AliasRecord(
            alias=name,
            revision=revision,
            sequence=entry.sequence,
            history=history,
            protected=(policy_id, name) in self._tables.protected,
        )

    async def aliases(
        self, policy_id: PolicyId, *, limit: int = PAGE, after: str | None = None
    ) -> Sequence[AliasRecord]:
        """Return a policy's aliases by name, without histories."""
        names = sorted(alias for owner, alias in self._tables.aliases if owner == policy_id)
        page = [name for name in names if name > (after or "")][:limit]
        return [replace(await self.alias(policy_id, name), history=()) for name in page]

    async def move(
        self, policy: PolicyRecord, name: str, target: RevisionRef, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_move` and tell it."""
        async with self._tables.lock, self._ledger.transaction(mover.cause or new_id("req")) as transaction:
            self._check(policy, name, mover)
            self._check_published(policy, target.number)
            rows = self._tables.aliases.get((policy.policy_id, name), [])
            entry = plan_move(name, rows[-1][0] if rows else None, target, expected=expected)
            if entry is not None:
                self._tables.aliases[policy.policy_id, name] = [*rows, (entry, mover)]
                event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
                await transaction.emit(event)
            return await self.alias(policy.policy_id, name)

    async def roll_back(
        self, policy: PolicyRecord, name: str, mover: Mover, *, expected: str | None
    ) -> AliasRecord:
        """Apply `core.aliases.plan_rollback` and tell it."""
        async with self._tables.lock, self._ledger.transaction(mover.cause or new_id("req")) as transaction:
            self._check(policy, name, mover)
            rows = self._tables.aliases.get((policy.policy_id, name))
            if not rows:
                raise NotFound(kind="alias", name=name)
            current = rows[-1][0]
            below = rows[current.below - 1][0] if current.below else None
            entry = plan_rollback(name, current, below, expected=expected)
            self._check_published(policy, entry.number)
            self._tables.aliases[policy.policy_id, name] = [*rows, (entry, mover)]
            target = self._ref(policy.policy_id, entry.number)
            event = moved(policy, name, entry, target, actor=mover.actor, reason=mover.reason)
            await transaction.emit(event)
            return await self.alias(policy.policy_id, name)

    async def history(
        self, policy_id: PolicyId, name: str, *, limit: int, before: int | None
    ) -> Sequence[AliasMove]:
        """Return rows of an alias's history, newest first."""
        rows = self._tables.aliases.get((policy_id, name))
        if not rows:
            raise NotFound(kind="alias", name=name)
        return [_move_of(*row) for row in reversed(rows) if before is None or row[0].sequence < before][
            :limit
        ]

    async def protect(self, policy_id: PolicyId, name: str, *, protected: bool) -> None:
        """Let nobody but admins and rules move an alias, or everybody again."""
        if (policy_id, name) not in self._tables.aliases:
            raise NotFound(kind="alias", name=name)
        change = self._tables.protected.add if protected else self._tables.protected.discard
        change((policy_id, name))

    def _check(self, policy: PolicyRecord, name: str, mover: Mover) -> None:
        if not mover.is_admin and (policy.policy_id, name) in self._tables.protected:
            raise AliasProtected(alias=name)

    def _check_published(self, policy: PolicyRecord, number: int) -> None:
        found = self._tables.revisions[policy.policy_id][number - 1]
        check_servable(policy, number, state=found.state, fault=found.fault)

    def _ref(self, policy_id: PolicyId, number: int) -> RevisionRef:
        return self._tables.revisions[policy_id][number - 1].ref


class MemoryEvaluations:
    """See `ports.Evaluations`."""

    def __init__(self, tables: Tables, ledger: MemoryLedger) -> None:
        self._tables = tables
        self._ledger = ledger

    async def add(self, policy: PolicyRecord, evaluation: EvaluationRecord) -> EvaluationRecord:
        """Store and tell a score of an existing revision, unless it is its evaluator's last."""
        async with self._ledger.transaction(new_id("req")) as transaction:
            rows = self._tables.evaluations.setdefault(policy.policy_id, [])
            added = evaluation
            if any(row.evaluation_id == evaluation.evaluation_id for row in rows):
                last = [row for row in rows if _matter_of(row) == _matter_of(evaluation)][-1]
                anew = said_anew(evaluation, last)
                if anew is None:
                    return last
                added = anew
            rows.append(added)
            await transaction.emit(recorded(policy, added))
            return added

    async def get(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return an evaluation."""
        for row in self._tables.evaluations.get(policy_id, []):
            if row.evaluation_id == evaluation_id:
                return row
        raise NotFound(kind="evaluation", name=evaluation_id)

    async def newest(self, policy_id: PolicyId, number: int, *, suite: str, metric: str) -> float | None:
        """Return the newest score of a revision."""
        for row in reversed(self._tables.evaluations.get(policy_id, [])):
            if (row.number, row.suite, row.metric) == (number, suite, metric):
                return row.value
        return None

    async def scores(self, policy_id: PolicyId, number: int) -> Sequence[EvaluationRecord]:
        """Return the newest score of a revision in each suite and metric."""
        rows = [row for row in self._tables.evaluations.get(policy_id, []) if row.number == number]
        newest = {(row.suite, row.metric): row for row in rows}
        return [newest[name] for name in sorted(newest)]

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations as they came."""
        rows = self._tables.evaluations.get(policy_id, [])
        start = 0
        if after is not None:
            places = [place for place, row in enumerate(rows, 1) if row.evaluation_id == after]
            if not places:
                raise NotFound(kind="evaluation", name=after)
            start = places[0]
        return rows[start:][:limit]


def _matter_of(row: EvaluationRecord) -> tuple[int, str, str, str]:
    return row.number, row.suite, row.metric, row.actor


class MemoryRules:
    """See `ports.Rules`."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def add(self, policy_id: PolicyId, rule: RuleRecord) -> None:
        """Store a rule."""
        rules = self._tables.rules.setdefault(policy_id, {})
        if len(rules) >= MOST_RULES:
            raise too_many_rules()
        rules[rule.rule_id] = rule

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        return [rule for _, rule in sorted(self._tables.rules.get(policy_id, {}).items())]

    async def remove(self, policy_id: PolicyId, rule_id: str) -> None:
        """Remove a rule."""
        if self._tables.rules.get(policy_id, {}).pop(rule_id, None) is None:
            raise NotFound(kind="rule", name=rule_id)


def _move_of(entry: AliasEntry, mover: Mover) -> AliasMove:
    return AliasMove(
        sequence=entry.sequence,
        previous=entry.previous,
        digest=entry.digest,
        number=entry.number,
        actor=mover.actor,
        reason=mover.reason,
        at=mover.at,
    )
