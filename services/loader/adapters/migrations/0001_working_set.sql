-- What each engine held last: loaded again when it starts. Written in the background, replaced as a whole.
CREATE TABLE working_set (
    engine_id text NOT NULL,
    digest text NOT NULL,
    base_digest text NOT NULL,
    tenant_id text NOT NULL,
    revision jsonb NOT NULL,
    pinned boolean NOT NULL,
    uses bigint NOT NULL CHECK (uses >= 0),
    last_used_at double precision NOT NULL,
    PRIMARY KEY (engine_id, digest)
);
