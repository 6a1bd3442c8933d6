-- What a tenant has counts the parts of uploads that ended otherwise than as a file, until they are erased.
CREATE INDEX file_uploads_of_tenant ON file_uploads (tenant_id) WHERE status <> 'completed';
DROP INDEX file_uploads_open;
