-- Jobs on files: what their requests said beside the spec, and the files that they read.
ALTER TABLE submissions ADD COLUMN fine_tuning jsonb;
ALTER TABLE submissions ADD COLUMN file_ids text[] NOT NULL DEFAULT '{}';
CREATE INDEX submissions_on_files ON submissions (tenant_id, submitted_at DESC, job_id DESC)
    WHERE fine_tuning IS NOT NULL;
CREATE INDEX submissions_by_file ON submissions USING gin (file_ids);
