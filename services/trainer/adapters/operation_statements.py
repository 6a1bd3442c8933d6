"""The longer statements of `operations_postgres.py`; its invariant is in each that writes."""

from mint_common.training import UNNUMBERED

FENCE = "SELECT token FROM leases WHERE base = $1 AND token = $2 FOR SHARE"
FENCED_POLICY = f"""
    WITH fence AS ({FENCE})
    SELECT policy_id FROM fence, training WHERE policy_id = $3 AND holder = $4 FOR NO KEY UPDATE OF training
"""  # noqa: S608  # constants
ADD = f"""
    WITH fence AS ({FENCE}), held AS (
        SELECT policy_id, training.tenant_id, forgotten_seq FROM fence, training
        WHERE policy_id = ANY($3::text[]) AND holder = $12 AND closed_at IS NULL AND is_managed = $11
        FOR KEY SHARE OF training
    ), added AS (
        INSERT INTO operations
            (policy_id, seq, tenant_id, kind, digest, payload, payload_is_claim, submitted_at)
        SELECT one.* FROM unnest($3::text[], $4::bigint[], $5::text[], $6::text[], $7::bytea[],
            $8::bytea[], $9::boolean[], $10::double precision[])
            AS one (policy_id, seq, tenant_id, kind, digest, payload, payload_is_claim, submitted_at)
        JOIN held USING (policy_id)
        WHERE held.tenant_id = one.tenant_id AND one.seq >= held.forgotten_seq
        ON CONFLICT DO NOTHING RETURNING policy_id, seq, tenant_id
    )
    SELECT (SELECT count(*) FROM fence) AS fences, array(SELECT added FROM added) AS added
"""  # noqa: S608  # constants
WHY_NOT = """
    SELECT training.tenant_id, is_managed, closed_at, operations.digest, $2 < forgotten_seq AS is_forgotten
    FROM training
    LEFT JOIN operations ON operations.policy_id = training.policy_id AND seq = $2
    WHERE training.policy_id = $1
"""
OPEN = """
    INSERT INTO training
        (policy_id, tenant_id, base, lora, metadata, created_at, last_operation_at, is_managed, holder)
    VALUES ($1, $2, $3, $4, $5, $6, $6, $7, $8) ON CONFLICT DO NOTHING
"""
# All or nothing: the policies of the results are held here, each of them, or nothing is done.
FINISH = f"""
    WITH fence AS ({FENCE}), held AS (
        SELECT policy_id FROM fence, training WHERE policy_id = ANY($10::text[]) AND holder = $15
        FOR NO KEY UPDATE OF training
    ), complete AS (
        SELECT 1 FROM held HAVING count(*) = cardinality($10::text[])
    ), done AS (
        UPDATE operations SET position = one.position, is_refused = one.is_refused, result = one.result,
            result_is_claim = one.result_is_claim, finished_at = one.finished_at
        FROM complete, unnest($3::text[], $4::bigint[], $5::bigint[], $6::boolean[], $7::bytea[],
            $8::boolean[], $9::double precision[])
            AS one (policy_id, seq, position, is_refused, result, result_is_claim, finished_at)
        WHERE operations.policy_id = one.policy_id AND operations.seq = one.seq
            AND operations.finished_at IS NULL
        RETURNING 1
    ), moved AS (
        UPDATE training SET step = one.step, position = one.position, last_operation_at = one.at,
            day = floor(one.at / 86400),
            day_seconds = CASE WHEN day = floor(one.at / 86400) THEN day_seconds ELSE 0 END + (
                SELECT sum(seconds) FROM unnest($3::text[], $14::double precision[])
                    AS spent (policy_id, seconds) WHERE spent.policy_id = one.policy_id
            )
        FROM complete, unnest($10::text[], $11::bigint[], $12::bigint[], $13::double precision[])
            AS one (policy_id, step, position, at)
        WHERE training.policy_id = one.policy_id
    )
    SELECT (SELECT count(*) FROM done) AS done, (SELECT count(*) FROM complete) AS fences
"""  # noqa: S608  # constants
COUNT_ATTEMPTS = f"""
    WITH fence AS ({FENCE}), held AS (
        SELECT policy_id FROM fence, training WHERE policy_id = ANY($3::text[]) AND holder = $5
        FOR KEY SHARE OF training
    ), counted AS (
        UPDATE operations SET attempts = attempts + 1
        FROM unnest($3::text[], $4::bigint[]) AS one (policy_id, seq) JOIN held USING (policy_id)
        WHERE operations.policy_id = one.policy_id AND operations.seq = one.seq
            AND operations.finished_at IS NULL
    )
    SELECT (SELECT count(*) FROM held) = (SELECT count(DISTINCT policy) FROM unnest($3::text[]) AS policy)
"""  # noqa: S608  # constants
TAKE_BACK_ATTEMPTS = """
    UPDATE operations SET attempts = GREATEST(attempts - 1, 0)
    FROM unnest($1::text[], $2::bigint[]) AS one (policy_id, seq)
    WHERE operations.policy_id = one.policy_id AND operations.seq = one.seq AND operations.finished_at IS NULL
"""
BEGIN_READ = """
    UPDATE operations SET reads = reads + 1 WHERE policy_id = $1 AND seq = $2 AND finished_at IS NULL
"""
END_READ = "UPDATE operations SET reads = 0 WHERE policy_id = $1 AND seq = $2 AND finished_at IS NULL"
SNAPSHOT = """
    UPDATE training SET snapshot = $2, snapshot_position = $3
    WHERE policy_id = $1 AND snapshot_position <= $3 AND closed_at IS NULL
    RETURNING (SELECT snapshot FROM training WHERE policy_id = $1) AS old
"""
CLOSE = """
    UPDATE training SET closed_at = $2, snapshot = NULL WHERE policy_id = $1
    RETURNING (SELECT snapshot FROM training WHERE policy_id = $1) AS old
"""
COVERED = """
    WITH covered AS (
        SELECT seq, payload, payload_is_claim FROM operations
        WHERE policy_id = $1 AND position <= $2 AND payload IS NOT NULL
    )
    UPDATE operations SET payload = NULL FROM covered
    WHERE operations.policy_id = $1 AND operations.seq = covered.seq
    RETURNING CASE WHEN covered.payload_is_claim THEN covered.payload END AS claim
"""
FORGET = """
    WITH old AS (
        SELECT policy_id, seq, result, result_is_claim FROM operations
        WHERE result IS NOT NULL AND finished_at < $1 AND NOT EXISTS (
            SELECT 1 FROM operations AS export
            WHERE export.policy_id = operations.policy_id AND export.finished_at IS NULL
                AND export.kind = 'wave_export'
        )
        LIMIT $2 FOR UPDATE SKIP LOCKED
    )
    UPDATE operations SET result = NULL FROM old
    WHERE operations.policy_id = old.policy_id AND operations.seq = old.seq
    RETURNING CASE WHEN old.result_is_claim THEN old.result END AS claim
"""
ENDED_OPERATION = """
    finished_at IS NOT NULL AND payload IS NULL AND result IS NULL AND EXISTS (
        SELECT FROM training WHERE training.policy_id = operations.policy_id AND closed_at < $1
    )
"""
_OLD_OPERATION = """
    operations.policy_id = open.policy_id AND seq < newest AND finished_at < $1
    AND payload IS NULL AND result IS NULL
"""
# The newest operation says which number comes next. The lowest one is looked at for each session: while it is
# needed, later ones stay too. Locked sessions are skipped instead of waited for, so this cannot deadlock with
# a commit of results, which locks several sessions too.
FORGET_OPERATIONS = f"""
    WITH policies AS (
        SELECT policy_id, newest FROM training AS open, LATERAL (
            SELECT max(seq) AS newest FROM operations
            WHERE operations.policy_id = open.policy_id AND seq < {UNNUMBERED} AND finished_at IS NOT NULL
        ) AS last
        WHERE base = $3 AND closed_at IS NULL AND EXISTS (
            SELECT FROM (
                SELECT * FROM operations WHERE operations.policy_id = open.policy_id ORDER BY seq LIMIT 1
            ) AS operations
            WHERE {_OLD_OPERATION}
        )
        LIMIT 10 FOR NO KEY UPDATE OF open SKIP LOCKED
    ), old AS (
        SELECT operations.policy_id, seq FROM operations, policies AS open WHERE {_OLD_OPERATION}
        ORDER BY operations.policy_id, seq LIMIT $2
    ), marked AS (
        UPDATE training SET forgotten_seq = greatest(forgotten_seq, last + 1)
        FROM (SELECT policy_id, max(seq) AS last FROM old GROUP BY policy_id) AS gone
        WHERE training.policy_id = gone.policy_id
    )
    DELETE FROM operations USING old WHERE operations.policy_id = old.policy_id AND operations.seq = old.seq
"""  # noqa: S608  # constants
# The newest wave of a job says which step comes next.
OLD_WAVE = """
    taken_at < to_timestamp($1) AND EXISTS (
        SELECT FROM waves newer WHERE newer.job_id = waves.job_id AND newer.job_step > waves.job_step
    )
"""
ORPHANS = """
    SELECT key FROM unnest($2::text[], $3::text[], $4::text[], $5::bigint[])
        AS one (key, policy_id, kind, number)
    JOIN training USING (policy_id)
    WHERE base = $1 AND snapshot ->> 'uri' IS DISTINCT FROM key
        AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE claim ->> 'uri' = key)
        AND NOT EXISTS (
            SELECT 1 FROM operations WHERE operations.policy_id = one.policy_id AND seq = number
                AND CASE one.kind
                    WHEN 'operations' THEN payload IS NOT NULL AND payload_is_claim
                    WHEN 'results' THEN result IS NOT NULL AND result_is_claim
                    ELSE false
                END
        )
"""
HELD = """
    SELECT held FROM (
        SELECT digest FROM training WHERE base = $1 AND closed_at IS NULL AND digest <> ''
        UNION SELECT parent FROM training WHERE base = $1 AND closed_at IS NULL AND parent IS NOT NULL
        UNION SELECT revision FROM checkpoints
            WHERE base = $1 AND revision IS NOT NULL AND (expires_at IS NULL OR expires_at > $2)
    ) AS all_held (held) WHERE held > $3 ORDER BY held LIMIT $4
"""
SESSIONS = f"""
    SELECT policy_id, tenant_id, base, lora, metadata, step, position, snapshot, snapshot_position, digest,
        parent, created_at, last_operation_at, closed_at, is_managed, coalesce((
            SELECT max(seq) + 1 FROM operations WHERE operations.policy_id = training.policy_id
                AND seq < {UNNUMBERED} AND finished_at IS NOT NULL
        ), 0) AS next_seq
    FROM training
"""  # noqa: S608  # constants
RESULT = """
    SELECT result, result_is_claim, finished_at FROM operations JOIN training USING (policy_id)
    WHERE policy_id = $1 AND seq = $2 AND NOT is_managed
"""
RESULTS = """
    SELECT result, result_is_claim FROM operations
    WHERE policy_id = $1 AND seq = ANY($2) AND result IS NOT NULL ORDER BY seq
"""
SECONDS = """
    SELECT coalesce(sum(day_seconds), 0) FROM training
    WHERE tenant_id = $1 AND day = floor($2::double precision / 86400) AND NOT is_managed
"""
UNFINISHED = """
    SELECT policy_id, seq, operations.tenant_id, payload_is_claim, attempts, reads,
        octet_length(payload) AS size_bytes,
        CASE WHEN payload_is_claim OR octet_length(payload) <= $3 THEN payload END AS payload
    FROM operations JOIN training USING (policy_id)
    WHERE policy_id = ANY($1::text[]) AND base = $2 AND finished_at IS NULL AND (is_managed OR NOT $4)
    ORDER BY policy_id, submitted_at, seq
"""
EXECUTED_AFTER = """
    SELECT policy_id, seq, tenant_id, payload, payload_is_claim, position, is_refused
    FROM operations WHERE policy_id = $1 AND position > $2 AND payload IS NOT NULL
    ORDER BY position
"""
NEEDED_PASSES = """
    SELECT payload, payload_is_claim FROM operations
    WHERE policy_id = $1 AND payload IS NOT NULL AND kind = 'wave_pass' AND NOT is_refused
"""
BEGIN_COUNTED_READ = """
    INSERT INTO wave_reads VALUES ($1, 1, $2)
    ON CONFLICT (wave_id) DO UPDATE SET reads = wave_reads.reads + 1
"""
