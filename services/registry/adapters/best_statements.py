"""Statements that find the best revision of a policy; the first that finds one says which it is."""

# A revision that was trained on samples has the mean reward of these, which its parent gave.
REWARD = """(
    SELECT avg((child.metrics ->> 'reward_mean')::float8) FROM revisions child
    WHERE child.policy_id = revisions.policy_id AND child.parent = revisions.digest
        AND child.metrics ? 'reward_mean' AND child.metrics ? 'ratio_max_error'
) AS reward"""
# The newest job that scored its revisions on tasks or rows apart from those of training.
_SCORED = """
    SELECT {columns} FROM revisions JOIN (
        SELECT DISTINCT ON (number) number AS scored, value FROM evaluations
        WHERE policy_id = {policy} AND metric = 'valid_reward_mean' AND suite = (
            SELECT suite FROM evaluations
            WHERE policy_id = {policy} AND metric = 'valid_reward_mean' AND starts_with(suite, 'job:')
            ORDER BY place DESC LIMIT 1
        )
        ORDER BY number, place DESC
    ) AS measured ON number = scored
    WHERE policy_id = {policy} AND state = 'published' AND fault IS NULL
    ORDER BY value DESC, number LIMIT 1
"""
_SAMPLED = """
    SELECT {columns} FROM revisions JOIN (
        SELECT parent, avg((metrics ->> 'reward_mean')::float8) AS reward, max(number) AS last
        FROM revisions WHERE policy_id = {policy} AND metrics ? 'reward_mean' AND metrics ? 'ratio_max_error'
        GROUP BY parent
    ) AS sampled ON revisions.digest = sampled.parent
    WHERE policy_id = {policy} AND state = 'published' AND fault IS NULL
    ORDER BY reward DESC, last DESC LIMIT 1
"""
BEST_REVISION = (
    _SCORED.format(columns=f"revisions.*, {REWARD}", policy="$1"),
    _SAMPLED.format(columns="revisions.*, reward", policy="$1"),
)
BEST_NUMBERS = ", ".join(
    f"({query.format(columns='number', policy='policy.policy_id')})" for query in (_SCORED, _SAMPLED)
)
