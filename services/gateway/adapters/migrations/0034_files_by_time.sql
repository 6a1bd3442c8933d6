-- Pages of files go by time and id, which an id tells: they go on behind a file that is deleted meanwhile.
-- Gateways of the version before this one page by `place` while an upgrade rolls: it stays, with its index,
-- and can be dropped one release later. Its values are generated, so inserts need not name it.
CREATE INDEX files_by_time ON files (tenant_id, created_at, file_id);
