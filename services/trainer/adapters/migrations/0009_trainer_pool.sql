-- Several trainers share a base: each has a row while it lives, and a policy belongs to one of them. See ADR 37.
CREATE TABLE trainers (
    token bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    base text NOT NULL,
    pool bigint NOT NULL,
    url text NOT NULL,
    room integer NOT NULL CHECK (room > 0),
    is_draining boolean NOT NULL DEFAULT false,
    renewed_at timestamptz NOT NULL DEFAULT now()
);

-- The base's lease is the pool's while this is its token. A trainer of the version before this takes the lease
-- with a new token, which fences the pool, and waits while a trainer of the pool lives.
ALTER TABLE leases ADD COLUMN pool_token bigint;

-- The token of the trainer that holds a policy. It is never used again, so nothing needs to be cleared.
ALTER TABLE training
    ADD COLUMN holder bigint,
    ADD COLUMN is_resting boolean NOT NULL DEFAULT false;
CREATE INDEX training_at_work ON training (holder)
    WHERE holder IS NOT NULL AND closed_at IS NULL AND NOT is_resting;
