-- Sessions of Tinker clients. finish is null until the client says how it ended.
CREATE TABLE tinker_sessions (
    session_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    project_id text NOT NULL,
    display_name text,
    tags text[] NOT NULL,
    metadata jsonb NOT NULL,
    sdk_version text NOT NULL,
    created_at double precision NOT NULL,
    seen_at double precision NOT NULL,
    finish text,
    finish_detail text
);
CREATE INDEX tinker_sessions_of_tenant ON tinker_sessions (tenant_id, created_at DESC, session_id DESC);

-- Training runs: the policy behind each model id. A row never changes.
CREATE TABLE tinker_runs (
    model_id text PRIMARY KEY,
    session_id text NOT NULL,
    tenant_id text NOT NULL,
    policy_id text NOT NULL UNIQUE,
    base text NOT NULL,
    base_model text NOT NULL,
    lora jsonb NOT NULL,
    train_attn boolean NOT NULL,
    train_mlp boolean NOT NULL,
    is_trained boolean NOT NULL,
    metadata jsonb NOT NULL,
    created_at double precision NOT NULL
);
CREATE INDEX tinker_runs_of_tenant ON tinker_runs (tenant_id, created_at DESC, model_id DESC);
CREATE INDEX tinker_runs_of_session ON tinker_runs (session_id, created_at);
