-- When a policy's jobs were submitted and ended, in microseconds, for its timeline.
CREATE INDEX jobs_submitted_by_time ON jobs (policy_id, round(created_at * 1e6));
CREATE INDEX jobs_finished_by_time ON jobs (policy_id, round(finished_at * 1e6)) WHERE finished_at IS NOT NULL;
