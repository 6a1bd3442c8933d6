-- The name or id of what a request created; the path names everything else.
ALTER TABLE audit ADD COLUMN object text NOT NULL DEFAULT '';
