-- Bytes of files, stored once whoever sent them. A row is here before its bytes are stored and until they are
-- erased: who stores shares its lock, who erases has it alone.
CREATE TABLE file_blobs (
    sha256 text PRIMARY KEY
);

-- cause: the request that made a file, an upload or a part, if it may be repeated.
CREATE TABLE files (
    file_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    filename text NOT NULL,
    purpose text NOT NULL,
    sha256 text NOT NULL REFERENCES file_blobs,
    size_bytes bigint NOT NULL,
    created_at double precision NOT NULL,
    expires_at double precision,
    format text,
    rows bigint,
    repeats bigint,
    cause text
);
CREATE INDEX files_by_time ON files (tenant_id, created_at, file_id);
CREATE INDEX files_by_sha256 ON files (sha256);
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX files_by_cause ON files (tenant_id, cause) WHERE cause IS NOT NULL;

-- Files that come in parts. ended_at: when it was completed, cancelled or seen to have expired.
CREATE TABLE file_uploads (
    upload_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    filename text NOT NULL,
    purpose text NOT NULL,
    size_bytes bigint NOT NULL,
    mime_type text NOT NULL,
    expires_after_seconds integer,
    status text NOT NULL DEFAULT 'pending',
    created_at double precision NOT NULL,
    expires_at double precision NOT NULL,
    file_id text,
    ended_at double precision,
    cause text
);
-- What a tenant has counts the parts of uploads that ended otherwise than as a file, until they are erased.
CREATE INDEX file_uploads_of_tenant ON file_uploads (tenant_id) WHERE status <> 'completed';
CREATE INDEX file_uploads_ended ON file_uploads (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX file_uploads_by_cause ON file_uploads (tenant_id, cause) WHERE cause IS NOT NULL;

-- A row is here before the part is stored and until it is erased.
CREATE TABLE file_upload_parts (
    part_id text PRIMARY KEY,
    upload_id text NOT NULL REFERENCES file_uploads,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    created_at double precision NOT NULL,
    is_stored boolean NOT NULL DEFAULT false,
    cause text
);
CREATE INDEX file_upload_parts_of_upload ON file_upload_parts (upload_id);
CREATE UNIQUE INDEX file_upload_parts_by_cause ON file_upload_parts (upload_id, cause) WHERE cause IS NOT NULL;
