-- The last day on which a policy was trained (UTC, counted from 1970), and the seconds of the trainer that it took then.
ALTER TABLE training
    ADD COLUMN day integer NOT NULL DEFAULT 0,
    ADD COLUMN day_seconds double precision NOT NULL DEFAULT 0;
CREATE INDEX training_days ON training (tenant_id, day) WHERE NOT is_managed;
