CREATE INDEX alias_history_of_tenant ON alias_history (tenant_id, moved_at);
