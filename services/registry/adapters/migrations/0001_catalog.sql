CREATE TABLE tenants (
    tenant_id  text PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);

CREATE TABLE api_keys (
    key_id     text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    name       text NOT NULL,
    shown      text NOT NULL,
    key_hash   bytea NOT NULL UNIQUE CHECK (length(key_hash) = 32),
    created_at timestamptz NOT NULL
);

CREATE TABLE bases (
    name       text COLLATE "C" PRIMARY KEY,
    digest     text NOT NULL,
    facts      jsonb NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE policies (
    policy_id  text PRIMARY KEY,
    tenant_id  text NOT NULL REFERENCES tenants,
    name       text COLLATE "C" NOT NULL,
    base       text COLLATE "C" NOT NULL REFERENCES bases,
    lora       jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (tenant_id, name)
);

CREATE TABLE revisions (
    policy_id           text NOT NULL REFERENCES policies,
    number              integer NOT NULL CHECK (number > 0),
    digest              text NOT NULL,
    manifest_uri        text NOT NULL,
    manifest_sha256     text NOT NULL,
    manifest_size_bytes bigint NOT NULL,
    parent              text,
    step                bigint NOT NULL,
    metrics             jsonb NOT NULL,
    state               text NOT NULL DEFAULT 'published' CHECK (state IN ('published', 'retired')),
    job_id              text,
    wave_id             text,
    export_id           text NOT NULL,
    created_at          timestamptz NOT NULL,
    PRIMARY KEY (policy_id, number),
    UNIQUE (policy_id, digest)
);

-- The answer to every export: the revision that it became, or why it was refused. A refused export may name a
-- policy that does not exist.
CREATE TABLE exports (
    tenant_id  text NOT NULL,
    policy_id  text NOT NULL,
    export_id  text NOT NULL,
    digest     text NOT NULL,
    number     integer,
    code       text,
    reason     text,
    settled_at timestamptz NOT NULL,
    PRIMARY KEY (policy_id, export_id, tenant_id),
    FOREIGN KEY (policy_id, number) REFERENCES revisions,
    CHECK ((number IS NULL) = (code IS NOT NULL AND reason IS NOT NULL))
);

CREATE TABLE aliases (
    policy_id text NOT NULL REFERENCES policies,
    alias     text COLLATE "C" NOT NULL,
    sequence  integer NOT NULL CHECK (sequence > 0),
    number    integer NOT NULL,
    PRIMARY KEY (policy_id, alias),
    FOREIGN KEY (policy_id, number) REFERENCES revisions
);

CREATE TABLE alias_history (
    policy_id text NOT NULL,
    alias     text COLLATE "C" NOT NULL,
    sequence  integer NOT NULL CHECK (sequence > 0),
    previous  text,
    digest    text NOT NULL,
    number    integer NOT NULL,
    below     integer CHECK (below < sequence),
    actor     text NOT NULL,
    reason    text NOT NULL,
    moved_at  timestamptz NOT NULL,
    PRIMARY KEY (policy_id, alias, sequence),
    FOREIGN KEY (policy_id, alias) REFERENCES aliases,
    FOREIGN KEY (policy_id, number) REFERENCES revisions
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END
$$;

CREATE TRIGGER alias_history_is_append_only
    BEFORE UPDATE OR DELETE ON alias_history
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE TABLE evaluations (
    place         bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    evaluation_id text PRIMARY KEY,
    policy_id     text NOT NULL,
    number        integer NOT NULL,
    suite         text NOT NULL,
    metric        text NOT NULL,
    value         double precision NOT NULL,
    n             integer NOT NULL CHECK (n > 0),
    actor         text NOT NULL,
    created_at    timestamptz NOT NULL,
    FOREIGN KEY (policy_id, number) REFERENCES revisions
);

CREATE INDEX evaluations_of_policy ON evaluations (policy_id, place);
