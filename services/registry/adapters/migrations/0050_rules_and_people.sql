ALTER TABLE aliases ADD COLUMN frozen boolean NOT NULL DEFAULT false;

ALTER TABLE rules
    ADD COLUMN paused boolean NOT NULL DEFAULT false,
    ADD COLUMN choose text NOT NULL DEFAULT 'newest' CHECK (choose IN ('newest', 'best')),
    ADD COLUMN cooldown_seconds double precision NOT NULL DEFAULT 0,
    -- The score that asks for a promotion and waits for the end of the cooldown.
    ADD COLUMN waiting text REFERENCES evaluations,
    ADD COLUMN due_at timestamptz,
    ADD CHECK ((waiting IS NULL) = (due_at IS NULL));
CREATE INDEX rules_due ON rules (due_at) WHERE due_at IS NOT NULL;
