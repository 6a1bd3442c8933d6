-- A job that is measured by sampling is known by its group's size, whatever its algorithm. The index of before
-- stays for processes of the version before.
CREATE INDEX jobs_measured_by_runs ON jobs (job_id)
    WHERE state IN ('running', 'paused') AND (spec ->> 'group_size')::int > 1
    AND jsonb_typeof(spec -> 'data' -> 'evaluation') = 'object';
