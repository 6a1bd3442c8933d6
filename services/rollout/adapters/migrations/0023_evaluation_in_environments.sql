-- A run in an environment: its settings, and its episodes by outcome.
ALTER TABLE evaluation_runs
    ADD COLUMN environment jsonb,
    ADD COLUMN episodes jsonb NOT NULL DEFAULT '{}';
-- Jobs that are measured by runs, in environments too. The index of before stays for processes of the version
-- before.
CREATE INDEX jobs_measured_by_all_runs ON jobs (job_id)
    WHERE state IN ('running', 'paused') AND (spec ->> 'group_size')::int > 1 AND (
        jsonb_typeof(spec -> 'data' -> 'evaluation') = 'object'
        OR jsonb_typeof(spec -> 'environment' -> 'evaluation') = 'object'
    );
