-- The first answer to each Idempotency-Key, for a day; status is null while the first request is at work.
CREATE TABLE requests (
    tenant_id text NOT NULL,
    key text NOT NULL,
    sha256 text NOT NULL,
    begun_at double precision NOT NULL,
    status integer,
    content_type text,
    answer bytea,
    PRIMARY KEY (tenant_id, key)
);
CREATE INDEX requests_by_age ON requests (begun_at);

-- Who changed what through the public API, and with what outcome. Append-only.
CREATE TABLE audit (
    place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    at double precision NOT NULL,
    key_id text NOT NULL,
    actor text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    status integer NOT NULL
);
CREATE INDEX audit_of_tenant ON audit (tenant_id, place);
