-- Promotions that are not carried out yet, which are few among all jobs.
CREATE INDEX submissions_promoting ON submissions (submitted_at, job_id)
    WHERE jsonb_typeof(fine_tuning -> 'promote' -> 'ended_at') = 'null';
