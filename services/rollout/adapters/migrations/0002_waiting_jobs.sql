-- A job waits while an earlier one of its policy runs.
ALTER TABLE jobs DROP CONSTRAINT jobs_state_check;
ALTER TABLE jobs ADD CONSTRAINT jobs_state_check
    CHECK (state IN ('submitted', 'running', 'succeeded', 'failed', 'cancelled'));
CREATE INDEX jobs_open ON jobs (policy_id, created_at, job_id) WHERE state IN ('submitted', 'running');
