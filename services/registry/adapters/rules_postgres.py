"""Promotion rules in Postgres."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import RuleRecord
from mint_common.errors import NotFound
from mint_common.ids import PolicyId
from services.registry.adapters.rows import moment, rule_of
from services.registry.core.rules import MOST_RULES, too_many_rules

_ADD = """
    INSERT INTO rules
        (rule_id, policy_id, alias, suite, metric, at_least, max_drop, roll_back_below, actor, created_at)
    SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
    WHERE (SELECT count(*) FROM rules WHERE policy_id = $2) < $11
    RETURNING rule_id
"""


class PostgresRules:
    """See `ports.Rules`."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def add(self, policy_id: PolicyId, rule: RuleRecord) -> None:
        """Store a rule."""
        added = await self._pool.fetchval(
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
            moment(rule.created_at),
            MOST_RULES,
        )
        if added is None:
            raise too_many_rules()

    async def list(self, policy_id: PolicyId) -> Sequence[RuleRecord]:
        """Return a policy's rules by id."""
        query = "SELECT * FROM rules WHERE policy_id = $1 ORDER BY rule_id"
        return [rule_of(row) for row in await self._pool.fetch(query, policy_id)]

    async def remove(self, policy_id: PolicyId, rule_id: str) -> None:
        """Remove a rule."""
        query = "DELETE FROM rules WHERE policy_id = $1 AND rule_id = $2 RETURNING rule_id"
        if await self._pool.fetchval(query, policy_id, rule_id) is None:
            raise NotFound(kind="rule", name=rule_id)
