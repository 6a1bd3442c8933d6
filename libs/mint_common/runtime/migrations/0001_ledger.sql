-- Causes (events, requests) whose effects are committed. Rows stay: a cause may come back at any time.
CREATE TABLE mint_inbox (
    cause text PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now()
);

-- Events, in the order in which the relay publishes them. A repetition counts up and becomes unpublished again.
CREATE TABLE mint_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cause text NOT NULL,
    event_id text NOT NULL,
    subject text NOT NULL,
    data bytea NOT NULL,
    headers jsonb NOT NULL,
    repeats integer NOT NULL DEFAULT 0,
    published_at timestamptz,
    refusal text
);

CREATE INDEX mint_outbox_unpublished ON mint_outbox (id) WHERE published_at IS NULL;
CREATE INDEX mint_outbox_by_cause ON mint_outbox (cause, id);
CREATE INDEX mint_outbox_by_age ON mint_outbox (published_at) WHERE published_at IS NOT NULL;
