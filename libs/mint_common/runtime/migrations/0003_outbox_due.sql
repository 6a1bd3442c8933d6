-- When an event was put into the outbox, or put there once more: what waits is measured by it.
-- Rows of before have the time of this migration; those that wait then are published in a moment.
ALTER TABLE mint_outbox ADD COLUMN due_at timestamptz NOT NULL DEFAULT now();
