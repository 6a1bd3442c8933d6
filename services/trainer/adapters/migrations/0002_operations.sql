-- Which process may commit results of a base's operations: the one with the newest token. See ADR 15.
CREATE TABLE leases (
    base text PRIMARY KEY,
    token bigint NOT NULL,
    renewed_at timestamptz NOT NULL DEFAULT now()
);

-- A training session that a client drives by operations. `snapshot` is the state after the operations up to
-- `snapshot_position`; without one the session begins as its LoRA initialises it.
CREATE TABLE training (
    policy_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    base text NOT NULL,
    lora jsonb NOT NULL,
    metadata jsonb NOT NULL,
    step bigint NOT NULL DEFAULT 0,
    position bigint NOT NULL DEFAULT 0,
    snapshot jsonb,
    snapshot_position bigint NOT NULL DEFAULT 0,
    digest text,
    parent text,
    created_at double precision NOT NULL,
    last_operation_at double precision NOT NULL,
    closed_at double precision
);

CREATE INDEX training_open ON training (base) WHERE closed_at IS NULL;

-- Operations by their place in the policy's order. `position` is the order in which they were executed.
-- A payload stays until a snapshot covers it, a result for a bounded time; what is big is a blob's claim.
CREATE TABLE operations (
    policy_id text NOT NULL REFERENCES training,
    seq bigint NOT NULL CHECK (seq >= 0),
    tenant_id text NOT NULL,
    kind text NOT NULL,
    digest bytea NOT NULL,
    payload bytea,
    payload_is_claim boolean NOT NULL,
    submitted_at double precision NOT NULL,
    position bigint,
    is_refused boolean NOT NULL DEFAULT false,
    result bytea,
    result_is_claim boolean NOT NULL DEFAULT false,
    finished_at double precision,
    PRIMARY KEY (policy_id, seq)
);

CREATE INDEX operations_replayed ON operations (policy_id, position) WHERE payload IS NOT NULL;
CREATE INDEX operations_kept ON operations (finished_at) WHERE result IS NOT NULL;

CREATE TABLE checkpoints (
    policy_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('training', 'sampler')),
    name text NOT NULL,
    tenant_id text NOT NULL,
    base text NOT NULL,
    lora jsonb NOT NULL,
    step bigint NOT NULL,
    claim jsonb NOT NULL,
    revision text,
    created_at double precision NOT NULL,
    expires_at double precision,
    is_public boolean NOT NULL DEFAULT false,
    metadata jsonb NOT NULL,
    PRIMARY KEY (policy_id, kind, name)
);

CREATE INDEX checkpoints_by_tenant ON checkpoints (tenant_id, created_at DESC);
CREATE INDEX checkpoints_expiring ON checkpoints (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX checkpoints_by_blob ON checkpoints ((claim ->> 'uri'));
