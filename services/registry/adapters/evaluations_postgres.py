"""Evaluations in Postgres."""

from collections.abc import Sequence

import asyncpg

from mint_common.catalog import EvaluationRecord, PolicyRecord
from mint_common.ids import EvaluationId, PolicyId
from mint_common.runtime.ledger_postgres import PostgresLedger
from mint_common.runtime.postgres import from_row
from mint_common.runtime.postgres_errors import PostgresConnection
from services.registry.adapters.rows import found
from services.registry.core.evaluations import recorded, repeated_score
from services.registry.core.rules import ScoreRange

_ADD = """
    INSERT INTO evaluations
        (evaluation_id, policy_id, number, suite, metric, value, n, actor, created_at, stderr)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (evaluation_id) DO NOTHING
    RETURNING place
"""
_EVALUATIONS = """
    SELECT evaluations.*, digest FROM evaluations JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1
"""
_LAST = f"""
    {_EVALUATIONS} AND number = $2 AND suite = $3 AND metric = $4 AND actor = $5 ORDER BY place DESC LIMIT 1
"""
_NEWEST = """
    SELECT value FROM evaluations WHERE policy_id = $1 AND number = $2 AND suite = $3 AND metric = $4
    ORDER BY place DESC LIMIT 1
"""
_SEEN = """
    SELECT min(value) AS low, max(value) AS high FROM evaluations
    WHERE policy_id = $1 AND suite = $2 AND metric = $3
"""
_SCORES = """
    SELECT DISTINCT ON (suite, metric) evaluations.*, digest
    FROM evaluations JOIN revisions USING (policy_id, number)
    WHERE policy_id = $1 AND number = $2 ORDER BY suite, metric, place DESC
"""


async def _insert(connection: PostgresConnection, policy: PolicyRecord, evaluation: EvaluationRecord) -> bool:
    """Insert a score; return False when its id is taken."""
    place = await connection.fetchval(
        _ADD,
        evaluation.evaluation_id,
        policy.policy_id,
        evaluation.number,
        evaluation.suite,
        evaluation.metric,
        evaluation.value,
        evaluation.n,
        evaluation.actor,
        evaluation.created_at,
        evaluation.stderr,
    )
    return place is not None


async def _last(
    connection: PostgresConnection, policy: PolicyRecord, score: EvaluationRecord
) -> EvaluationRecord:
    """Return the last score of the same evaluator, revision, suite and metric."""
    key = (score.number, score.suite, score.metric, score.actor)
    row = await connection.fetchrow(_LAST, policy.policy_id, *key)
    assert row is not None, "its id is taken"
    return from_row(row, EvaluationRecord)


async def _get(
    database: "asyncpg.Pool | PostgresConnection", policy_id: PolicyId, evaluation_id: EvaluationId
) -> EvaluationRecord:
    row = await database.fetchrow(f"{_EVALUATIONS} AND evaluation_id = $2", policy_id, evaluation_id)
    return from_row(found(row, "evaluation", evaluation_id), EvaluationRecord)


class PostgresEvaluations:
    """Scores of revisions, as handlers ask for them."""

    def __init__(self, pool: asyncpg.Pool, ledger: PostgresLedger) -> None:
        self._pool = pool
        self._ledger = ledger

    async def add(
        self, policy: PolicyRecord, evaluation: EvaluationRecord, *, cause: str | None = None
    ) -> EvaluationRecord:
        """Store a score of an existing revision and emit `evaluation.recorded`.

        A repeated score is handled as `core.evaluations.repeated_score` says.
        """
        async with self._ledger.request(cause) as transaction:
            connection = transaction.connection
            added, is_new = evaluation, await _insert(connection, policy, evaluation)
            if not is_new:
                last = await _last(connection, policy, evaluation)
                changed = repeated_score(evaluation, last)
                added = changed or last
                # Concurrent duplicates serialise here; the second one finds the first one's row.
                is_new = changed is not None and await _insert(connection, policy, changed)
            if is_new:
                await transaction.emit(recorded(policy, added))
            kept = await _get(connection, policy.policy_id, added.evaluation_id)
            await transaction.answer(kept)
        return kept

    async def get(self, policy_id: PolicyId, evaluation_id: EvaluationId) -> EvaluationRecord:
        """Return an evaluation. Raises NotFound."""
        return await _get(self._pool, policy_id, evaluation_id)

    async def newest(self, policy_id: PolicyId, number: int, *, suite: str, metric: str) -> float | None:
        """Return the newest score of a revision."""
        value: float | None = await self._pool.fetchval(_NEWEST, policy_id, number, suite, metric)
        return value

    async def seen(self, policy_id: PolicyId, *, suite: str, metric: str) -> ScoreRange | None:
        """Return the range of the scores of a metric over a policy's revisions, None without any."""
        row = await self._pool.fetchrow(_SEEN, policy_id, suite, metric)
        return None if row is None or row["low"] is None else ScoreRange(low=row["low"], high=row["high"])

    async def scores(self, policy_id: PolicyId, number: int) -> Sequence[EvaluationRecord]:
        """Return the newest score of a revision in each suite and metric, by their names."""
        return [from_row(row, EvaluationRecord) for row in await self._pool.fetch(_SCORES, policy_id, number)]

    async def list(self, policy_id: PolicyId, *, limit: int, after: str | None) -> Sequence[EvaluationRecord]:
        """Return a policy's evaluations, oldest first. Raises NotFound for an unknown cursor."""
        place = 0
        if after is not None:
            query = "SELECT place FROM evaluations WHERE policy_id = $1 AND evaluation_id = $2"
            place = found(await self._pool.fetchval(query, policy_id, after), "evaluation", after)
        query = f"{_EVALUATIONS} AND place > $2 ORDER BY place LIMIT $3"
        rows = await self._pool.fetch(query, policy_id, place, limit)
        return [from_row(row, EvaluationRecord) for row in rows]
