ALTER TABLE policies
    ADD COLUMN description text NOT NULL DEFAULT '',
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN retention jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN changed integer NOT NULL DEFAULT 0;

-- One index for each way to list: a page of any of them begins where its cursor points.
CREATE INDEX policies_by_base ON policies (tenant_id, base, name);
CREATE INDEX policies_by_age ON policies (tenant_id, created_at, name);
CREATE INDEX policies_by_retention ON policies (policy_id) WHERE retention <> '{}';

-- The labels of policies once more, to find policies by them in order of name.
CREATE TABLE policy_labels (
    policy_id text NOT NULL REFERENCES policies,
    label     text COLLATE "C" NOT NULL,
    value     text COLLATE "C" NOT NULL,
    tenant_id text NOT NULL,
    name      text COLLATE "C" NOT NULL,
    PRIMARY KEY (policy_id, label)
);
CREATE INDEX policy_labels_by_value ON policy_labels (tenant_id, label, value, name);
