-- When a key came first, however often it was taken since: its requests are repeats of one.
ALTER TABLE requests ADD COLUMN first_at double precision;
-- The request that made a file, an upload or a part, if it may be repeated.
ALTER TABLE files ADD COLUMN cause text;
CREATE UNIQUE INDEX files_by_cause ON files (tenant_id, cause) WHERE cause IS NOT NULL;
ALTER TABLE file_uploads ADD COLUMN cause text;
CREATE UNIQUE INDEX file_uploads_by_cause ON file_uploads (tenant_id, cause) WHERE cause IS NOT NULL;
ALTER TABLE file_upload_parts ADD COLUMN cause text;
CREATE UNIQUE INDEX file_upload_parts_by_cause ON file_upload_parts (upload_id, cause) WHERE cause IS NOT NULL;
