-- When the evaluation run of a wave's revision ended, of jobs that are measured by sampling.
ALTER TABLE waves ADD COLUMN scored_at double precision;
CREATE INDEX jobs_scored_by_runs ON jobs (job_id)
    WHERE state IN ('running', 'paused') AND spec ->> 'algorithm' = 'grpo'
    AND jsonb_typeof(spec -> 'data' -> 'evaluation') = 'object';
