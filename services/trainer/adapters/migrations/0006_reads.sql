-- Reads that a process began and did not end, which it may have died of: of an operation together with the
-- restore of its policy, and of the records of a wave that is not taken in yet.
ALTER TABLE operations ADD COLUMN reads integer NOT NULL DEFAULT 0;

CREATE TABLE wave_reads (
    wave_id text PRIMARY KEY,
    reads integer NOT NULL,
    begun_at double precision NOT NULL
);
