-- Files, uploads and what requests said of jobs are rollout's from this version on. Rows that it has taken over
-- stay for a rollback to the version before, unread; these tables can be dropped one minor version later.
ALTER TABLE file_blobs ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
ALTER TABLE files ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
ALTER TABLE file_uploads ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
ALTER TABLE file_upload_parts ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
ALTER TABLE submissions ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
ALTER TABLE removed_files ADD COLUMN is_moved boolean NOT NULL DEFAULT false;
CREATE INDEX file_blobs_left ON file_blobs (sha256) WHERE NOT is_moved;
CREATE INDEX files_left ON files (file_id) WHERE NOT is_moved;
CREATE INDEX file_uploads_left ON file_uploads (upload_id) WHERE NOT is_moved;
CREATE INDEX file_upload_parts_left ON file_upload_parts (part_id) WHERE NOT is_moved;
CREATE INDEX submissions_left ON submissions (job_id) WHERE NOT is_moved;
