CREATE INDEX evaluations_of_tenant ON evaluations (tenant_id, created_at);
