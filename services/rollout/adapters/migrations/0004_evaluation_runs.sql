-- Runs are taken up by whoever claims one without progress, so a killed process loses none.
CREATE TABLE evaluation_runs (
    run_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    base text NOT NULL,
    policy_id text NOT NULL,
    policy text NOT NULL,
    revision jsonb NOT NULL,
    task text NOT NULL,
    n integer NOT NULL,
    seed bigint NOT NULL,
    temperature double precision NOT NULL,
    max_new_tokens integer NOT NULL,
    caller jsonb NOT NULL,
    created_at double precision NOT NULL,
    state text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed')),
    reason text NOT NULL,
    scored integer NOT NULL,
    value double precision,
    stderr double precision,
    progress_at double precision NOT NULL,
    finished_at double precision
);
CREATE INDEX evaluation_runs_by_tenant ON evaluation_runs (tenant_id, created_at DESC, run_id);
CREATE INDEX evaluation_runs_running ON evaluation_runs (created_at) WHERE state = 'running';
