-- Where tenants want to be told. due_at: when the first of what waits for it is due, null while nothing does;
-- not_before: it rests after a failure, or is in a sender's hands, until then.
CREATE TABLE webhooks (
    webhook_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    url text NOT NULL,
    event_types text[] NOT NULL,
    description text NOT NULL,
    secret text NOT NULL,
    previous_secret text,
    previous_until double precision NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'active',
    reason text,
    created_at double precision NOT NULL,
    failing_since double precision,
    failures integer NOT NULL DEFAULT 0,
    due_at double precision,
    not_before double precision NOT NULL DEFAULT 0
);
CREATE INDEX webhooks_of_tenant ON webhooks (tenant_id, created_at, webhook_id);
CREATE INDEX webhooks_due ON webhooks (due_at) WHERE state = 'active' AND due_at IS NOT NULL;

-- What is told to them, one row an event and webhook. attempts: the newest tries.
CREATE TABLE webhook_deliveries (
    place bigint GENERATED ALWAYS AS IDENTITY,
    delivery_id text PRIMARY KEY,
    webhook_id text NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event_id text NOT NULL,
    event_type text NOT NULL,
    body bytea NOT NULL,
    state text NOT NULL DEFAULT 'waiting',
    tries integer NOT NULL DEFAULT 0,
    created_at double precision NOT NULL,
    due_at double precision,
    attempts jsonb NOT NULL DEFAULT '[]'
);
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (webhook_id, due_at) WHERE state = 'waiting';
CREATE INDEX webhook_deliveries_of_webhook ON webhook_deliveries (webhook_id, place);
CREATE INDEX webhook_deliveries_ended ON webhook_deliveries (created_at) WHERE state <> 'waiting';
