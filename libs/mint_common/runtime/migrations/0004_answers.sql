-- First answers to requests that may be repeated, committed with what they changed. Kept for longer than the
-- gateway keeps an Idempotency-Key.
CREATE TABLE mint_answers (
    cause text PRIMARY KEY,
    answer bytea NOT NULL,
    answered_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mint_answers_by_age ON mint_answers (answered_at);
