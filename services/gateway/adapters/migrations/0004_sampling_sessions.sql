-- Sampling sessions of Tinker clients. revision is null on the bare base; only an inflight session's changes.
CREATE TABLE tinker_sampling_sessions (
    sampling_session_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    base text NOT NULL,
    base_model text NOT NULL,
    revision jsonb,
    model_path text,
    model_id text,
    policy_id text,
    kind text NOT NULL
);
CREATE INDEX tinker_sampling_sessions_of_session ON tinker_sampling_sessions (session_id, seq);
CREATE INDEX tinker_sampling_sessions_inflight ON tinker_sampling_sessions (model_id) WHERE kind = 'inflight';
