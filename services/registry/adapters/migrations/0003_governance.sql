ALTER TABLE aliases ADD COLUMN protected boolean NOT NULL DEFAULT false;

-- Counts retirements and restorations: each is told once.
ALTER TABLE revisions ADD COLUMN changes integer NOT NULL DEFAULT 0;

ALTER TABLE api_keys
    ADD COLUMN scopes text[] NOT NULL DEFAULT '{read,infer,train,admin}',
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN last_used_at timestamptz;
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, key_id);

CREATE TABLE rules (
    rule_id         text PRIMARY KEY,
    policy_id       text NOT NULL REFERENCES policies,
    alias           text COLLATE "C" NOT NULL,
    suite           text NOT NULL,
    metric          text NOT NULL,
    at_least        double precision NOT NULL,
    max_drop        double precision,
    roll_back_below double precision,
    actor           text NOT NULL,
    created_at      timestamptz NOT NULL
);
CREATE INDEX rules_of_policy ON rules (policy_id, rule_id);

-- The newest score of a revision in a suite and metric, for the rules.
CREATE INDEX evaluations_by_score ON evaluations (policy_id, number, suite, metric, place DESC);
