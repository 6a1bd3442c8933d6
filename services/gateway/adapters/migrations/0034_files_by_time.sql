-- Pages of files go by time and id, which an id tells: they go on behind a file that is deleted meanwhile.
CREATE INDEX files_by_time ON files (tenant_id, created_at, file_id);
ALTER TABLE files DROP COLUMN place;
