-- What users asked for. job_id is derived from the request's cause, so a repeated request finds its own row.
CREATE TABLE submissions (
    job_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    policy_id text NOT NULL,
    base text NOT NULL,
    spec jsonb NOT NULL,
    body_sha256 text NOT NULL,
    submitted_at double precision NOT NULL
);

CREATE INDEX submissions_by_tenant ON submissions (tenant_id, submitted_at DESC);
