-- When a tenant's jobs were submitted and ended, in microseconds, for its timeline.
CREATE INDEX jobs_submitted_of_tenant ON jobs (tenant_id, round(created_at * 1e6));
CREATE INDEX jobs_finished_of_tenant ON jobs (tenant_id, round(finished_at * 1e6)) WHERE finished_at IS NOT NULL;
