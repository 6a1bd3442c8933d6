-- A paused job holds its policy, so that its optimizer's state stays its own.
ALTER TABLE jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('submitted', 'running', 'paused', 'succeeded', 'failed', 'cancelled'));
DROP INDEX jobs_open;
CREATE INDEX jobs_open ON jobs (policy_id, created_at, job_id)
    WHERE state IN ('submitted', 'running', 'paused');
-- The chosen revision, and what was wrong with the data.
ALTER TABLE jobs
    ADD COLUMN result jsonb,
    ADD COLUMN stopped_early boolean NOT NULL DEFAULT false,
    ADD COLUMN fault jsonb,
    ADD COLUMN is_pausing boolean NOT NULL DEFAULT false,
    ADD COLUMN controls integer NOT NULL DEFAULT 0;
ALTER TABLE waves ADD COLUMN counts jsonb NOT NULL DEFAULT '{}';
