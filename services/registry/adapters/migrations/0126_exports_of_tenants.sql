CREATE INDEX exports_of_tenant ON exports (tenant_id, settled_at);
