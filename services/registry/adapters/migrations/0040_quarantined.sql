-- Another state; not validated here, as that reads the whole table under a lock that stops writers.
ALTER TABLE revisions DROP CONSTRAINT revisions_state_check;
ALTER TABLE revisions
    ADD CONSTRAINT revisions_state_check CHECK (state IN ('published', 'retired', 'quarantined')) NOT VALID;
