-- Bytes of the adapter's files; 0 for revisions of before.
ALTER TABLE revisions ADD COLUMN size_bytes bigint NOT NULL DEFAULT 0;
