-- How many published revisions a policy has. The boolean is a column of its own, which seldom changes: a
-- publication leaves all indexes of its policy alone.
ALTER TABLE policies
    ADD COLUMN published integer NOT NULL DEFAULT 0,
    ADD COLUMN is_published boolean NOT NULL DEFAULT false;
