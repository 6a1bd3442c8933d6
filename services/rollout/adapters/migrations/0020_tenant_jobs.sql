-- What its request said of a job: the policy's name, what may go wrong, and all that is of a job on a file.
ALTER TABLE jobs
    ADD COLUMN policy text NOT NULL DEFAULT '',
    ADD COLUMN warnings jsonb NOT NULL DEFAULT '[]',
    ADD COLUMN fine_tuning jsonb;
CREATE INDEX jobs_on_files ON jobs (tenant_id, created_at DESC, job_id DESC) WHERE fine_tuning IS NOT NULL;
CREATE INDEX jobs_of_policy ON jobs (tenant_id, policy_id, created_at DESC);
-- Promotions that are not carried out yet, which are few among all jobs.
CREATE INDEX jobs_promoting ON jobs (created_at, job_id)
    WHERE jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null';
