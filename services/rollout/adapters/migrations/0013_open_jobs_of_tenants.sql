-- How many open jobs a tenant has is counted at each submission.
CREATE INDEX jobs_open_by_tenant ON jobs (tenant_id) WHERE state IN ('submitted', 'running', 'paused');
