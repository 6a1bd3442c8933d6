"""Promotion rules in Postgres."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import RuleRecord
from mint_common.ids import EvaluationId, PolicyId
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row
from services.registry.adapters.rows import found
from services.registry.core.rules import MAX_RULES, DueRule, too_many_rules

_ADD = """
    INSERT INTO rules
        (rule_id, policy_id, alias, suite, metric, at_least, max_drop, roll_back_below, actor, created_at,
         choose, cooldown_seconds, at_most, max_rise, roll_back_above)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15
    WHERE (SELECT count(*) FROM rules WHERE policy_id = $2) < $16
    RETURNING rule_id
"""
_PAUSE = """
    UPDATE rules SET paused = $3, waiting = CASE WHEN NOT $3 THEN waiting END,
        due_at = CASE WHEN NOT $3 THEN due_at END
    WHERE policy_id = $1 AND rule_id = $2 RETURNING *
"""
_WAIT = "UPDATE rules SET waiting = $2, due_at = $3 WHERE rule_id = $1 AND NOT paused"
_DUE = """
    SELECT tenant_id, waiting AS evaluation_id, rules.* FROM rules JOIN policies USING (policy_id)
    WHERE due_at <= $1 ORDER BY due_at LIMIT $2
"""
_DONE = "UPDATE rules SET waiting = NULL, due_at = NULL WHERE rule_id = $1 AND waiting = $2"


class PostgresRules:
    """Promotion rules of policies, as they are followed."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def add(self, policy_id: PolicyId, rule: RuleRecord, *, cause: str | None = None) -> None:
        """Store a rule. Raises InvalidField when the policy has `core.rules.MAX_RULES`."""
        async with self._ledger.request(cause) as transaction:
            added = await transaction.connection.fetchval(
                _ADD,
                rule.rule_id,
                policy_id,
                rule.alias,
                rule.suite,
                rule.metric,
                rule.at_least,
                rule.max_drop,
                rule.roll_back_below,
                rule.actor,
                rule.created_at,
                rule.choose,
                rule.cooldown_seconds,
                rule.at_most,
                rule.max_rise,
                rule.roll_back_above,
                MAX_RULES,
            )
            if added is None:
                raise too_many_rules()
            await transaction.answer(rule)

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        query = "SELECT * FROM rules WHERE policy_id = $1 ORDER BY rule_id"
        return [from_row(row, RuleRecord) for row in await self._pool.fetch(query, policy_id)]

    async def pause(
        self, policy_id: PolicyId, rule_id: str, *, paused: bool, cause: str | None = None
    ) -> RuleRecord:
        """Pause a rule, which drops a waiting score, or resume it. Idempotent. Raises NotFound."""
        async with self._ledger.request(cause) as transaction:
            row = await transaction.connection.fetchrow(_PAUSE, policy_id, rule_id, paused)
            rule = from_row(found(row, "rule", rule_id), RuleRecord)
            await transaction.answer(rule)
        return rule

    async def waiting(self, rule_id: str) -> EvaluationId | None:
        """Return the score that waits for the end of a rule's cooldown."""
        query = "SELECT waiting FROM rules WHERE rule_id = $1"
        waiting: EvaluationId | None = await self._pool.fetchval(query, rule_id)
        return waiting

    async def wait(self, rule_id: str, evaluation_id: EvaluationId, *, until: float) -> None:
        """Let a score wait for the end of a rule's cooldown, instead of an earlier one.

        No effect on a paused or removed rule.
        """
        await self._pool.execute(_WAIT, rule_id, evaluation_id, until)

    async def due(self, *, now: float, limit: int) -> Sequence[DueRule]:
        """Return rules whose cooldown has ended, the earliest first."""
        rows = await self._pool.fetch(_DUE, now, limit)
        return [from_row({**row, "rule": from_row(row, RuleRecord)}, DueRule) for row in rows]

    async def done(self, rule_id: str, evaluation_id: EvaluationId) -> None:
        """Let a score wait no longer. No effect when another one waits by now."""
        await self._pool.execute(_DONE, rule_id, evaluation_id)

    async def remove(self, policy_id: PolicyId, rule_id: str, *, cause: str | None = None) -> None:
        """Remove a rule. Raises NotFound."""
        query = "DELETE FROM rules WHERE policy_id = $1 AND rule_id = $2 RETURNING rule_id"
        async with self._ledger.request(cause) as transaction:
            removed = await transaction.connection.fetchval(query, policy_id, rule_id)
            await transaction.answer(found(removed, "rule", rule_id))
