CREATE TABLE jobs (
    job_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    base text NOT NULL,
    policy_id text NOT NULL,
    lora jsonb NOT NULL,
    spec jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'cancelled')),
    reason text NOT NULL,
    steps_done integer NOT NULL,
    revision jsonb,
    cause text NOT NULL,
    created_at double precision NOT NULL,
    progress_at double precision NOT NULL,
    finished_at double precision
);

CREATE INDEX jobs_by_tenant ON jobs (tenant_id, created_at DESC, job_id);
CREATE INDEX jobs_running ON jobs (progress_at) WHERE state = 'running';

CREATE TABLE waves (
    wave_id text PRIMARY KEY,
    job_id text NOT NULL REFERENCES jobs (job_id),
    step integer NOT NULL,
    state text NOT NULL CHECK (state IN ('requested', 'completed', 'published', 'failed', 'cancelled')),
    sampled text,
    prompts jsonb NOT NULL,
    requested_at double precision NOT NULL,
    record jsonb,
    reward_mean double precision,
    completed_at double precision,
    revision jsonb,
    published_at double precision,
    metrics jsonb NOT NULL,
    UNIQUE (job_id, step)
);
